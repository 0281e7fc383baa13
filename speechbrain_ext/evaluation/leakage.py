"""What can be read of every factor from every subspace."""

import itertools

import numpy as np

from speechbrain.utils.logger import get_logger
from speechbrain_ext.evaluation.results import Subspace, make_row, measure_rows
from speechbrain_ext.evaluation.tasks import Task
from speechbrain_ext.metrics.arrays import to_codes, to_matrix
from speechbrain_ext.metrics.probes import control_projections, linear_probe
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.metrics.variance import linear_cka, variance_shares
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.nnet.distributed import deal
from speechbrain_ext.utils.errors import InputError

logger = get_logger(__name__)

MAX_PAIRS = 100_000


class Leakage:
    """What can be read of every factor from every subspace?

    By a linear probe (accuracy) and by cosine (EER), beside chance and
    projections of the same dimension that were never trained.

    Each factor has a *group factor*, the first of the others: of (speaker,
    content, style) speaker is grouped by content, content and style by
    speaker. A probe is tested on groups that it was not trained on, and trials
    pair different groups, so that neither gets better for what cells of the
    two factors share. Any further factor is not held apart: the probe of
    style, tested on other speakers, knows cells of content and style. Put
    content first to test it on other contents.

    Arguments
    ---------
    factors : dict
        Factor -> [N] values, two factors or more; their order matters.
    speakers : sequence
        [N] speakers, which are resampled for intervals.
    folds : int
        Folds of each probe.
    seed : int
        Of folds, controls, trials and resamples.
    **options : object
        ``resamples`` and ``reference`` of :class:`Task`.

    Raises
    ------
    InputError
        With fewer than two factors or folds.
    """

    name, measure = "leakage", "accuracy"

    def __init__(self, factors, speakers=None, folds=5, seed=0, **options):
        if len(factors) < 2:
            raise InputError(
                f"leakage needs two factors or more, got {', '.join(factors)}"
            )
        if folds < 2:
            raise InputError(f"a probe needs 2 folds or more, got {folds}")
        self.codes = {f: to_codes(v, None, f)[1] for f, v in factors.items()}
        self.seed = seed
        # Not the joint of all others: its groups would share single values.
        self.factors = [
            FactorLeakage(
                factor,
                code,
                next(c for name, c in self.codes.items() if name != factor),
                speakers,
                folds,
                seed=seed,
                **options,
            )
            for factor, code in self.codes.items()
        ]

    def __call__(self, embedded):
        """Rows of all subspaces, and of controls of their dimensions."""
        vectors = {
            origin: to_matrix(one, f"subspace {origin.label}")
            for origin, one in embedded.vectors["test"].items()
        }
        controls = {}
        for taken, features in embedded.features.items():
            dims = [
                one.shape[1] for o, one in vectors.items() if o[2:4] == taken
            ]
            found = control_projections(features, dims, self.seed)
            controls |= {
                Subspace("control", name, *taken): one
                for name, one in found.items()
            }
        rows = measure_rows(
            {origin: one.shape[1] for origin, one in controls.items()},
            measure="dimension",
        )
        every = vectors | controls
        for factor in self.factors:
            rows += factor(every)
        if len(self.codes) == 2 and all(c.max() for c in self.codes.values()):
            rows += self._variance(every)
        return rows + [
            make_row(
                one,
                measure="cka",
                target=other.subspace,
                value=linear_cka(vectors[other], vectors[one]),
            )
            for one, other in itertools.combinations(vectors, 2)
            if one._replace(subspace=other.subspace) == other  # of one system
        ]

    def _variance(self, vectors):
        """Shares of the variance of two factors, where they are known."""
        names = tuple(self.codes)
        shares = {
            origin: variance_shares(one, *self.codes.values(), names=names)
            for origin, one in vectors.items()
        }
        parts = dict(next(iter(shares.values())))
        del parts["chance"]
        rows = []
        for part in parts:
            each = {o: one[part] for o, one in shares.items()}
            each = {o: share for o, share in each.items() if share is not None}
            column = "target" if part in names else "group"
            rows += measure_rows(each, measure="variance", **{column: part})
        return rows


class FactorLeakage(Task):
    """How well one factor is read from all subspaces.

    Arguments
    ---------
    factor : str
        The factor.
    code, groups : array of int
        [N] values of the factor and of its group factor.
    speakers, folds, seed
        See :class:`Leakage`.
    **options : object
        ``resamples`` and ``reference`` of :class:`Task`.
    """

    def __init__(self, factor, code, groups, speakers, folds, seed, **options):
        super().__init__(factor, speakers, seed=seed, **options)
        self.columns["n"] = len(code)
        self.code, self.groups = code, groups
        self.probe = {"folds": folds, "seed": seed}
        most = {"max_targets": MAX_PAIRS, "max_nontargets": MAX_PAIRS}
        try:
            self.trials = generate_trials(code, groups, seed=seed, **most)
        except InputError:  # no pairs of one kind: nothing to compare
            self.trials = None

    def __call__(self, vectors):
        """Rows of vectors, Subspace -> [N, D]."""
        count = np.bincount(self.code)
        rows = [
            self.constant("chance", 1 / len(count)),
            self.constant("majority", count.max() / len(self.code)),
        ]
        try:
            correct = deal(
                lambda origin: linear_probe(
                    vectors[origin], self.code, self.groups, **self.probe
                ),
                vectors,
            )
        except InputError as error:  # vectors are checked: it is the labels
            logger.warning(f"No probe of {self.factor}: {error}")
        else:
            rows += self.accuracies(correct, backend="linear probe")
        if self.trials is None:
            return rows
        label = self.trials.label
        eers = deal(
            lambda o: equal_error_rate(self.trials.score(vectors[o]), label)[0],
            vectors,
        )
        return rows + self.rows("eer", eers, backend="cosine", n=len(label))
