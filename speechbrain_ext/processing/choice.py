"""Choosing the layers of each factor, and how strongly a closed form is shrunk.

The layers of an encoder differ in what they tell, and no encoder says which are
the ones for a factor. A choice fits the closed form to the training part of a
grid for each candidate, and takes what errs least on the validation part, of
other speakers, through random channels. With unlabelled recordings,
:class:`~speechbrain_ext.processing.adaptation.Adaptation` judges the layers
too.
"""

import contextlib
from dataclasses import dataclass, field

import numpy as np

from speechbrain_ext.metrics.arrays import to_numpy
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.nnet.distributed import deal
from speechbrain_ext.processing.discriminants import (
    grid_source,
    source_directions,
)
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.options import (
    as_list,
    either,
    list_of,
    number,
    whole,
)

# Standard errors that a candidate may be worse: of utterances, of which a few
# speakers said many, and of the training's kind.
DEVIATIONS = 2.0
CANDIDATES = either(whole(1), list_of(whole(1)))
RULES = {
    "most_layers": whole(1),
    "shrinkages": list_of(number(0, 1)),
    "dims": (
        lambda dims: all(map(CANDIDATES[0], dims.values())),
        f"{{factor: {CANDIDATES[1]}}}",
    ),
}


def layer_runs(layers, most):
    """Single layers, and several that follow each other.

    Arguments
    ---------
    layers : list of int
        The layers.
    most : int
        Layers of a run at most.

    Returns
    -------
    list of list of int

    Example
    -------
    >>> layer_runs([0, 1, 6], 2)
    [[0], [1], [6], [0, 1], [1, 6]]
    """
    return [
        layers[first : first + size]
        for size in range(1, min(most, len(layers)) + 1)
        for first in range(len(layers) - size + 1)
    ]


@contextlib.contextmanager
def reading(layers):
    """Say of which layers something is wrong: a run can do without them."""
    try:
        yield
    except InputError as error:
        raise InputError(f"Layers {layers}: {error}. Give the others as layers")


def first_within(choices, count, deviations=1.0):
    """The first of some choices that is as good as the best, but for chance.

    Arguments
    ---------
    choices : list of dict
        In the order of preference, with the ``eer`` of each.
    count : int
        Utterances that the errors were measured on.
    deviations : float
        Standard errors of the least error that another may have more.

    Returns
    -------
    dict

    Example
    -------
    >>> first_within([{"eer": 0.3}, {"eer": 0.12}, {"eer": 0.1}], 100)
    {'eer': 0.12}
    """
    least = min(choice["eer"] for choice in choices)
    limit = least + deviations * np.sqrt(least * (1 - least) / count)
    return next(choice for choice in choices if choice["eer"] <= limit)


@dataclass
class Choice:
    """Candidates for the closed form of each factor, and how one is chosen.

    Of each run of layers the first shrinkage, and with it the first number of
    dimensions, whose error is not higher than the least one by more than two
    standard errors: other recordings differ more from the training than the
    validation does, and ask for more shrinkage. Then the layers of least error.

    Arguments
    ---------
    most_layers : int
        Neighbouring layers that a factor is read from, at most.
    shrinkages : sequence of float
        In the order of preference, see
        :func:`~speechbrain_ext.processing.discriminants.discriminants`.
    dims : dict
        Factor -> dimensions, or a list of them in the order of preference.
        Default: as many as its values can tell apart.

    Example
    -------
    >>> Choice(shrinkages=[0.3]).most_layers
    3
    """

    most_layers: int = 3
    shrinkages: tuple = (0.9, 0.6, 0.3)
    dims: dict = field(default_factory=dict)

    def on_grid(
        self,
        select,
        labels,
        trials,
        candidates,
        channel_weight=1.0,
        recordings=None,
    ):
        """The choice of least error on a validation grid.

        Arguments
        ---------
        select : callable
            Layers -> the takes of the training grid, as for
            :func:`~speechbrain_ext.processing.discriminants.grid_source`, and
            the features of the validation grid [M, layers, dim], best through
            random channels.
        labels : dict
            Factor -> its value for each utterance of the training grid.
        trials : dict
            Factor -> Trials on the validation grid.
        candidates : dict
            Factor -> layers to choose from, such as :func:`layer_runs`.
        channel_weight : float
            See :func:`~speechbrain_ext.processing.closed_form.channel_lda`.
        recordings : dict
            Errors of the layers on unlabelled recordings, of
            :meth:`~speechbrain_ext.processing.adaptation.Adaptation.
            layer_errors`: the product of both errors is to be the least, as one
            alone leaves many within chance.

        Returns
        -------
        dict
            Factor -> ``layers``, ``shrinkage``, ``dims`` and ``eer``, in
            [0, 1]; with recordings also ``recordings_eer``.

        Raises
        ------
        InputError
            See :func:`~speechbrain_ext.processing.discriminants.grid_source`.

        Example
        -------
        >>> import torch
        >>> from speechbrain_ext.metrics.trials import generate_trials
        >>> speakers = ["a", "a", "b", "b"]
        >>> features = torch.tensor([[0.0, 0], [1, 1], [0, 8], [1, 9]])
        >>> takes = features.view(1, 4, 2, 1)  # the second layer tells them
        >>> Choice().on_grid(
        ...     lambda layers: (takes[:, :, layers], takes[0, :, layers]),
        ...     {"speaker": speakers},
        ...     {"speaker": generate_trials(speakers)},
        ...     {"speaker": layer_runs([0, 1], 1)},
        ... )["speaker"]["layers"]
        [1]
        """

        def best_of(run):
            """The best choice of each factor that may be read from a run."""
            layers, best = list(run), {}
            train, valid = select(layers)
            read = {f: v for f, v in labels.items() if layers in candidates[f]}
            with reading(layers):
                source = grid_source(train, read)
                for factor in read:
                    measured = self._measure(
                        factor, source, valid, trials[factor], channel_weight
                    )
                    chosen = first_within(measured, len(valid), DEVIATIONS)
                    best[factor] = {"layers": layers, **chosen}
            return best

        runs = dict.fromkeys(tuple(r) for f in labels for r in candidates[f])
        found = deal(best_of, runs).values()
        tried = {f: [best[f] for best in found if f in best] for f in labels}
        for factor, errors in (recordings or {}).items():
            for choice in tried[factor]:
                choice["recordings_eer"] = errors[tuple(choice["layers"])]
        return {
            factor: min(choices, key=_error)
            for factor, choices in tried.items()
        }

    def _measure(self, factor, source, valid, trials, channel_weight):
        """All shrinkages and dimensions of a factor, on some layers."""
        vectors = (to_numpy(valid) - source.mean) / source.std
        vectors = vectors.reshape(len(vectors), -1)
        wanted = as_list(self.dims.get(factor, source.ranks[factor]))
        measured = []
        for shrinkage in self.shrinkages:
            directions = source_directions(
                [source],
                [1.0],
                factor,
                None,
                max(wanted),
                shrinkage,
                channel_weight,
            )
            embedded = (vectors @ directions.T).astype(np.float32)
            for dims in dict.fromkeys(min(d, len(directions)) for d in wanted):
                scores = trials.score(embedded[:, :dims])
                eer = equal_error_rate(scores, trials.label)[0]
                choice = {"shrinkage": shrinkage, "dims": dims, "eer": eer}
                measured.append(choice)
        return measured


def _error(choice):
    """Of the grid, times that of the recordings; no error is taken for none."""
    return max(choice["eer"], 1e-3) * max(choice.get("recordings_eer", 1), 1e-3)
