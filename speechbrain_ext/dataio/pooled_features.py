"""Pooled features of utterances, as arrays on a disk."""

import functools

import numpy as np
import torch

from speechbrain_ext.utils.windows import mean_of_windows

AT_A_TIME = 4096  # rows, where a copy of all would take too much memory


class PooledFeatures:
    """Pooled features of utterances, memory-mapped.

    Arguments
    ---------
    parts : list of numpy.ndarray
        Shape [rows, layers, dim] each; of a long utterance a row per window.
        Row i stands in part i % n of the n parts.
    ids : list of str
        The utterance of each row. Those of one stand together.
    durations : list of float
        Of each row, where an utterance has several.

    Attributes
    ----------
    array : numpy.ndarray
        Shape [utterances, layers, dim]: memory-mapped, unless there are several
        parts, or some utterances are in windows.

    Example
    -------
    >>> features = PooledFeatures([np.zeros((2, 1, 4), "float16")], ["a", "b"])
    >>> features.select(["b"], layers=[0]).shape
    torch.Size([1, 1, 4])
    """

    def __init__(self, parts, ids, durations=None):
        self.parts, self.durations = parts, durations
        self.ids = list(dict.fromkeys(ids))
        self._place = {key: place for place, key in enumerate(self.ids)}
        # The first row of each utterance, and the end of the last one.
        self._first = np.arange(len(ids) + 1)
        if len(self.ids) < len(ids):
            begins = (one != last for one, last in zip(ids[1:], ids))
            begins = np.fromiter(begins, bool, len(ids) - 1)
            self._first = self._first[np.concatenate([[1], begins, [1]]) > 0]

    @functools.cached_property
    def array(self):
        """Shape [utterances, layers, dim], see above."""
        if len(self.parts) == 1 and len(self.ids) == len(self.parts[0]):
            return self.parts[0]
        return self.select(self.ids).numpy()

    def select(self, ids, layers=None, joined=True):
        """Features of some utterances, in that order, in memory.

        Arguments
        ---------
        ids : list of str
            Utterances.
        layers : list of int
            Layers to keep. Default: all.
        joined : bool
            One row for each utterance, of a long one the mean over its
            windows; else a row for each window.

        Returns
        -------
        torch.Tensor
            float32, shape [rows, layers, dim].
        """
        if ids is self.ids:
            places = np.arange(len(ids))
        else:
            places = map(self._place.__getitem__, ids)
            places = np.fromiter(places, int, len(ids))
        counts = np.diff(self._first)[places]
        # Of each utterance its first row, and those after it.
        ends = np.cumsum(counts)
        chosen = np.repeat(self._first[places] - ends + counts, counts)
        chosen += np.arange(len(chosen))
        _, n_layers, dim = self.parts[0].shape
        layers = range(n_layers) if layers is None else layers
        rows = np.empty((len(chosen), len(layers), dim), dtype=np.float32)
        part_of, row_in = chosen % len(self.parts), chosen // len(self.parts)
        for number, part in enumerate(self.parts):
            own = np.flatnonzero(part_of == number)
            for first in range(0, len(own), AT_A_TIME):
                some = own[first : first + AT_A_TIME]
                rows[some] = part[np.ix_(row_in[some], layers)]  # no other
        rows = torch.from_numpy(rows)
        if len(rows) == len(ids) or not joined:
            return rows
        durations = np.asarray(self.durations)[chosen]
        return mean_of_windows(rows, counts.tolist(), durations)
