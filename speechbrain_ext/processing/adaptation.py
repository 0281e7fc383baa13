"""Fitting a closed form to unlabelled recordings, with thresholds that hold.

Views of each recording are encoded, each after an intervention on one factor,
and pairs of versions in which all factors but one were changed: the *anchors*
of that factor. They agree in it as two recordings of one value would. So
without a label they tell how well a head does, how much an earlier data set is
to weigh beside these recordings, and where a threshold has to be.
"""

import functools
import itertools
from dataclasses import dataclass, field, replace

import numpy as np

from speechbrain.utils.logger import get_logger
from speechbrain_ext.augment.interventions import Chain, RandomCrop
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.feature_plans import joined
from speechbrain_ext.dataio.manifest import subset
from speechbrain_ext.metrics.arrays import to_numpy, unit_rows
from speechbrain_ext.metrics.calibration import (
    MOST_AGREEING,
    impostor_rates,
    impostor_thresholds,
)
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.processing.choice import (
    RULES as CHOICE_RULES,
    first_within,
    reading,
)
from speechbrain_ext.processing.discriminants import (
    grid_source,
    make_head,
    recordings_source,
    source_directions,
)
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import run_label
from speechbrain_ext.utils.options import (
    as_list,
    check_options,
    list_of,
    number,
    whole,
)

logger = get_logger(__name__)

# Fewer have no hundred pairs in their halves, which a rate of 0.01 needs.
MIN_RECORDINGS = 22
# Recordings that judge layers, at most: there are many layers.
JUDGES = 2000
# Rates of false acceptance that thresholds are kept for.
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
RULES = {
    "dims": CHOICE_RULES["dims"],
    "weights": list_of(number(0, 1e6)),
    "shrinkages": CHOICE_RULES["shrinkages"],
    "n_views": whole(1),
    "n_anchors": whole(MIN_RECORDINGS),
    "seed": whole(0),
}


def check_rate(rate, planned):
    """Refuse a rate of false acceptance that less than one pair would tell."""
    # Pairs within each half of the recordings that have anchors
    few = min(len(extract.args[0].data) for extract in planned.values())
    if rate * (few // 2) * (few // 2 - 1) < 1:
        raise InputError(
            f"{few} recordings have too few pairs for false_accepts {rate}: "
            "give more, or a higher rate"
        )


@dataclass
class Adapted:
    """What recordings made of a head.

    Arguments
    ---------
    head : LinearSubspaces
        Fitted to all sources, the last of which are the recordings.
    thresholds : dict
        Factor -> rate of false acceptance -> threshold of the cosine.
    choices : dict
        Factor -> what was chosen for it: ``weight`` of the earlier sources,
        ``shrinkage``, ``dims``, the ``eer`` of its anchors against pairs of
        different recordings, in [0, 1], of recordings that were not fitted to,
        and the share of pairs that are taken to be ``agreeing``.
    """

    head: object
    thresholds: dict
    choices: dict


@dataclass
class Adaptation:
    """How a closed form is fitted to unlabelled recordings.

    Arguments
    ---------
    interventions : dict
        Factor -> what changes it in a recording: a class as
        :class:`~speechbrain_ext.augment.interventions.Intervention`, to be
        called with ``seed`` and ``sample_rate``. Factors without a subspace,
        such as the channel, count too.
    differ_in : str
        The factor in which any two recordings are taken to differ.
    dims : dict
        Factor -> dimensions, or a list of them in the order of preference.
    layers : dict
        Factor -> positions of the layers that it is read from, among those
        that were chosen. Default: all.
    weights : list of float
        Weights of the earlier sources (a grid without its channels, other
        recordings) to choose from; that of the recordings is 1.
    shrinkages : list of float
        To choose from, in the order of preference, see
        :func:`~speechbrain_ext.processing.discriminants.discriminants`.
    n_views : int
        Views of each recording per intervention.
    n_anchors : int
        Recordings at most of which there are anchors, half of them in each
        half of the recordings; 22 or more.
    seed : int
        Of interventions and halves.

    Example
    -------
    >>> from speechbrain_ext.augment.interventions import RandomCrop
    >>> Adaptation({"content": RandomCrop}).n_views
    2
    """

    interventions: dict
    differ_in: str = "speaker"
    dims: dict = field(default_factory=dict)
    layers: dict | None = None
    weights: tuple = (0.25, 0.5, 1.0)
    shrinkages: tuple = (0.3, 0.1)
    n_views: int = 2
    n_anchors: int = 1000
    seed: int = 8000

    def plan(self, dataset, encoder, factors, name="own", **options):
        """Views and anchors as calls of ``extract_features``, not yet made.

        Arguments
        ---------
        dataset : DynamicItemDataset
            The recordings.
        encoder : speechbrain_ext.lobes.pooled_encoder.PooledEncoder
            The frozen encoder.
        factors : list of str
            Those that have a subspace.
        name : str
            What the recordings are called.
        **options
            Further arguments of ``extract_features``.

        Returns
        -------
        dict
            ``recorded``, ``(factor, number)`` and ``(factor, "anchor",
            number)`` -> functools.partial.

        Raises
        ------
        InputError
            See :meth:`check`.
        """
        self.check(dataset, factors)
        seeds = itertools.count(self.seed)

        def draw(factor, version=None):
            """The next intervention on a factor."""
            drawn = self.interventions[factor](
                seed=next(seeds), sample_rate=encoder.sample_rate
            )
            # Parts that overlap agree in what is said, too.
            if version is not None and isinstance(drawn, RandomCrop):
                return replace(drawn, half=version)
            return drawn

        planned = {"recorded": None}
        for factor in self.interventions:
            for take in range(self.n_views):
                planned[factor, take] = draw(factor)
        for factor in self.known(factors):
            others = [one for one in self.interventions if one != factor]
            for version in range(2):
                chain = (draw(other, version) for other in others)
                planned[factor, "anchor", version] = Chain(*chain)
        halves = self._halves(len(dataset.data))
        few = {row for half in halves for row in half[: self.n_anchors // 2]}
        ids = [key for row, key in enumerate(dataset.data) if row in few]
        few = subset(dataset, ids)
        label = run_label(name)[:40]  # of the names of folders
        return {
            view: functools.partial(
                extract_features,
                few if "anchor" in view else dataset,
                encoder,
                name=f"{label}-{joined(view)}",
                channel=intervention,
                **options,
            )
            for view, intervention in planned.items()
        }

    def check(self, dataset, factors):
        """Refuse what anchors cannot be made of.

        Arguments
        ---------
        dataset, factors
            As of :meth:`plan`.

        Raises
        ------
        InputError
            If there are too few recordings or anchors, or no intervention
            that leaves a factor as it is.
        """
        if len(dataset.data) < MIN_RECORDINGS:
            raise InputError(
                f"{len(dataset.data)} recordings are too few to adapt to: give "
                f"{MIN_RECORDINGS} or more, better a few hundred"
            )
        check_options(vars(self), RULES, "adaptation: ")
        if self.differ_in not in {*factors, *self.interventions}:
            raise InputError(
                f"adaptation: differ_in is '{self.differ_in}': expected a "
                f"factor, such as {', '.join(factors)}"
            )
        for factor in self.known(factors):
            if not set(self.interventions) - {factor}:
                raise InputError(
                    f"There is no intervention on anything but '{factor}', so "
                    "nothing tells what is to leave it as it is: give one on "
                    "another factor, such as the channel"
                )

    def _halves(self, count):
        """Recordings by their rows, in two halves at random."""
        rows = np.random.default_rng(self.seed).permutation(count)
        return np.array_split(rows, 2)

    def known(self, factors):
        """Factors with a subspace of which recordings tell something."""
        return [
            factor
            for factor in factors
            if factor == self.differ_in or factor in self.interventions
        ]

    def fit(self, head, features, chosen, name="own"):
        """Fit a head to earlier sources and recordings.

        Arguments
        ---------
        head : LinearSubspaces
            That of the earlier sources, which it has as ``sources``. A
            subspace of which recordings tell nothing stays as it is.
        features : dict
            Of :meth:`plan`: name -> PooledFeatures.
        chosen : list of int
            Layers that the head takes.
        name : str
            Of the recordings.

        Returns
        -------
        Adapted
        """
        rows, sources = np.arange(len(features["recorded"].ids)), head.sources
        source = functools.partial(
            self._source, features, chosen, head.subspaces
        )
        halves = self._halves(len(rows))
        halved = [[*sources, source(half)] for half in halves]
        own = [*sources, source(rows, name)]
        mean, std = own[-1].mean, own[-1].std
        for source in sources:
            if source.count == len(rows) and np.allclose(
                source.mean, mean, 1e-4
            ):
                logger.warning(
                    f"The model was fitted to these {len(rows)} recordings "
                    "before: they judge themselves, and thresholds may accept "
                    "too many. Adapt the model that it was made of"
                )
        # A subspace of which recordings tell nothing is the same, written for
        # features that are standardised otherwise
        old_mean, old_std = map(
            to_numpy, (head.standardiser.mean, head.standardiser.std)
        )
        scale, shift = (std / old_std).ravel(), (mean - old_mean) / old_std
        directions, biases = {}, {}
        for factor, projection in head.projections.items():
            weight = to_numpy(projection.weight)
            directions[factor] = weight * scale
            biases[factor] = weight @ shift.ravel() + to_numpy(projection.bias)
        choices, thresholds = {}, {}
        for factor in self.known(head.subspaces):
            earlier = any(factor in source.between for source in sources)
            held_out = self._held_out(factor, halved, halves, features, chosen)
            choice = self._choose(factor, held_out, earlier)
            agree, pairs, partly = choice.pop("scores")
            thresholds[factor] = impostor_thresholds(pairs, partly, RATES)
            choice["agreeing"] = impostor_rates(pairs, agree)[2]
            if choice["agreeing"] >= MOST_AGREEING:
                logger.warning(
                    f"Subspace '{factor}': versions of one recording are "
                    "hardly more alike than different recordings, so its "
                    "thresholds are a guess: give recordings of more values "
                    f"of '{factor}'; where there are many, the subspace is bad"
                )
            choices[factor] = choice
            directions[factor] = self._directions(own, factor, choice)
            biases[factor] = np.zeros(len(directions[factor]))
        head = make_head(mean, std, directions, own, biases)
        return Adapted(head, thresholds, choices)

    def _source(self, features, chosen, factors, rows, name="own"):
        """What some of the recordings tell."""
        views = {
            factor: [
                features[factor, take].array for take in range(self.n_views)
            ]
            for factor in self.interventions
        }
        layers = self.layers or {}
        return recordings_source(
            features["recorded"].array,
            views,
            self.differ_in,
            chosen,
            {factor: layers.get(factor) for factor in factors},
            rows,
            name,
        )

    def layer_errors(self, select, labels, features, candidates):
        """How well layers do without labels, before a head is fitted.

        Arguments
        ---------
        select : callable
            Layers -> the training grid as recorded, [utterances, layers, dim].
        labels : dict
            Factor -> its value for each utterance of the grid.
        features : dict
            Of :meth:`plan`: name -> PooledFeatures of the recordings.
        candidates : dict
            Factor -> layers to choose from, a list of lists.

        Returns
        -------
        dict
            Factor that recordings tell of -> layers, as a tuple -> equal error
            rate of its anchors.

        Raises
        ------
        InputError
            If features are no good, naming their layers.
        """
        alone = replace(self, layers=None)  # as all of the candidate's
        halves = self._halves(len(features["recorded"].ids))
        halves = [half[: max(JUDGES, self.n_anchors) // 2] for half in halves]
        errors = {factor: {} for factor in self.known(labels)}
        runs = {tuple(one): one for f in errors for one in candidates[f]}
        for run, layers in runs.items():
            read = {f: labels[f] for f in errors if layers in candidates[f]}
            with reading(layers):
                grid = grid_source(select(layers)[None], read)
                halved = [
                    [grid, alone._source(features, layers, read, half)]
                    for half in halves
                ]
                for factor in read:
                    held_out = alone._held_out(
                        factor, halved, halves, features, layers
                    )
                    choice = alone._choose(factor, held_out, True)
                    errors[factor][run] = choice["eer"]
        return errors

    def _directions(self, sources, factor, choice):
        """Directions of a factor, with the recordings last."""
        return source_directions(
            sources,
            [choice["weight"]] * (len(sources) - 1) + [1.0],
            factor,
            (self.layers or {}).get(factor),
            choice["dims"],
            choice["shrinkage"],
        )

    def _choose(self, factor, held_out, earlier):
        """Weight, shrinkage and dimensions by the half that was not fitted.

        Of shrinkages and dimensions the first that is not worse than the best
        by more than a standard error. Of weights the least that is not worse
        by more than half of one: more recordings have less use for other data,
        and only half of them were fitted to.
        """
        count = sum(len(views[0]) for _, views in held_out)
        tried = []
        for weight in sorted(self.weights) if earlier else [0.0]:
            measured = [
                choice
                for shrinkage in self.shrinkages
                for choice in self._measure(factor, held_out, weight, shrinkage)
            ]
            tried.append(first_within(measured, count))
        return first_within(tried, count, 0.5)

    def _held_out(self, factor, halved, halves, features, chosen):
        """Views of each half as a head takes them, with the other's sources."""
        known = {*features[factor, "anchor", 0].ids}
        views = [(factor, "anchor", 0), (factor, "anchor", 1), "recorded"]
        views.append((self._other(factor), self.n_views - 1))
        held_out = []
        for fitted, rows in zip(halved, halves[::-1], strict=True):
            ids = [features["recorded"].ids[row] for row in rows]
            ids = [key for key in ids if key in known]
            mean, std = fitted[-1].mean, fitted[-1].std
            vectors = [
                (features[view].select(ids, chosen).numpy() - mean) / std
                for view in views
            ]
            held_out.append((fitted, [x.reshape(len(x), -1) for x in vectors]))
        return held_out

    def _measure(self, factor, held_out, weight, shrinkage):
        """All dimensions of a factor, with some weight and shrinkage."""
        wanted = as_list(self.dims.get(factor))
        choice = {"weight": weight, "shrinkage": shrinkage}
        choice["dims"] = None if None in wanted else max(wanted)
        directions = [
            self._directions(fitted, factor, choice) for fitted, _ in held_out
        ]
        # With more dims, as all recordings tell, thresholds would be others.
        most = min(map(len, directions))
        return [
            choice
            | {"dims": dims}
            | self._score([one[:dims] for one in directions], held_out)
            for dims in dict.fromkeys(min(d or most, most) for d in wanted)
        ]

    def _score(self, directions, held_out):
        """Error of anchors, and scores for thresholds."""
        agree, differ, pairs, partly = [], [], [], []
        for axes, (_, views) in zip(directions, held_out, strict=True):
            one, other, recorded, changed = (
                unit_rows(x @ axes.T) for x in views
            )
            scores, same = one @ other.T, np.eye(len(one), dtype=bool)
            agree.append(scores[same])
            differ.append(scores[~same])
            above = np.triu_indices(len(one), 1)
            pairs.append((recorded @ recorded.T)[above])
            partly.append(np.sum(one * changed, axis=1))
        # Of equal vectors the cosine may be a little more than 1.
        agree, differ, pairs, partly = (
            np.clip(np.concatenate(part), -1, 1)
            for part in (agree, differ, pairs, partly)
        )
        scores = np.concatenate([agree, differ])
        eer = equal_error_rate(scores, np.arange(len(scores)) < len(agree))[0]
        return {"eer": float(eer), "scores": (agree, pairs, partly)}

    def _other(self, factor):
        """Another factor, whose views are compared with anchors.

        Two recordings of one value may share their channel or not: where
        thresholds are, one version is through a channel, and one is not.
        """
        others = [one for one in self.interventions if one != factor]
        return min(others, key=lambda other: other not in self.dims)
