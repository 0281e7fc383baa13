"""Intervals that resample speakers, and paired differences of systems.

Trials share speakers: 37,611 trials of 40 people are 40 independent draws, not
37,611, and an interval that resamples trials is several times too narrow. Here
the speakers are drawn with replacement, once for all systems, so that
differences between systems are paired.

R. M. Bolle, N. K. Ratha, S. Pankanti, "Error analysis of pattern recognition
systems: the subsets bootstrap", Computer Vision and Image Understanding, 2004.
"""

import numpy as np
from scipy.sparse import csr_matrix

from speechbrain_ext.metrics.arrays import to_codes, to_numpy
from speechbrain_ext.metrics.verification import check_trials
from speechbrain_ext.utils.errors import InputError

# Of 2 speakers only one mixed draw has both kinds of trials, and equal systems
# "differ" in 95 % of simulations, of 3 in 28 %. From 5 to 8 speakers it is 5 to
# 20 %, by how much speakers vary; only many of them give the nominal 5 %.
MIN_SPEAKERS = 5
MAX_MISSING = 0.05  # of the draws of an interval
BLOCKS = 256
CHUNK = 1 << 22


class SpeakerResamples:
    """Speakers drawn with replacement, the same draws for every system.

    With fewer than five speakers all draws are NaN, and so no interval and no
    significance: a few speakers cannot tell how speakers vary.

    Arguments
    ---------
    speakers : sequence
        [N] speaker of each utterance.
    number : int
        Resamples.
    seed : int
        Seed of the draws.
    rows : array of int, optional
        Utterances whose speakers are drawn, such as those in trials: speakers
        in no trial would dilute the draws. Default: all.

    Attributes
    ----------
    times : numpy.ndarray
        int64 [number, speakers], how many times each speaker was drawn; 0 for
        speakers of no utterance in ``rows``.

    Raises
    ------
    InputError
        With fewer than two speakers or two resamples.

    Example
    -------
    >>> resamples = SpeakerResamples(["a", "a", "b", "c"], number=5)
    >>> resamples.times.sum(axis=1).tolist()
    [3, 3, 3, 3, 3]
    >>> SpeakerResamples(["a", "a", "b", "c"], 2, rows=[0, 2]).times[:, 2]
    array([0, 0])
    """

    def __init__(self, speakers, number=1000, seed=0, rows=None):
        names, self.speaker = to_codes(speakers, None, "speakers")
        rows = slice(None) if rows is None else to_numpy(rows)
        self.drawn = np.unique(self.speaker[rows])
        if len(self.drawn) < 2:
            raise InputError(
                "an interval over speakers needs 2 or more, got "
                f"{len(self.drawn)}"
            )
        if number < 2:
            raise InputError(f"an interval needs 2 resamples, got {number}")
        rng = np.random.default_rng(seed)
        count = len(self.drawn)
        self.times = np.zeros((number, len(names)), dtype=np.int64)
        self.times[:, self.drawn] = rng.multinomial(
            count, np.full(count, 1 / count), size=number
        )

    def accuracy(self, correct):
        """Mean of one value per utterance, in each resample.

        Arguments
        ---------
        correct : array of bool or float
            [N], such as ``nearest_value`` or ``linear_probe`` gives. The
            utterances keep their decisions: neighbours or training sets are
            not drawn again.

        Returns
        -------
        draws : numpy.ndarray
            [number]; NaN with fewer than five speakers.

        Example
        -------
        >>> resamples = SpeakerResamples(list("abcde"), number=4)
        >>> resamples.accuracy([True, True, True, True, True]).tolist()
        [1.0, 1.0, 1.0, 1.0]
        """
        correct = to_numpy(correct, np.float64)
        if correct.shape != self.speaker.shape:
            raise InputError(
                f"expected a value for each of {len(self.speaker)} utterances, "
                f"got shape {correct.shape}"
            )
        if len(self.drawn) < MIN_SPEAKERS:
            return np.full(len(self.times), np.nan)
        sums = np.bincount(self.speaker, correct)
        counts = np.bincount(self.speaker)
        return (self.times @ sums) / (self.times @ counts)

    def eer(self, scores, trials):
        """Equal error rate in each resample.

        A speaker who is drawn m times counts as m people with the same
        recordings: their target trials count m times, a non-target trial of
        speakers drawn m and n times counts m n times. The result is that of
        :func:`~speechbrain_ext.metrics.verification.equal_error_rate` on
        trials that are repeated so, without repeating or sorting them again.

        Arguments
        ---------
        scores : array or torch.Tensor
            [T] score of each trial.
        trials : Trials
            Trials on the N utterances.

        Returns
        -------
        draws : numpy.ndarray
            [number]; NaN for a resample without both kinds of trials, and
            everywhere when either kind has fewer than five speakers.

        Raises
        ------
        InputError
            On NaN scores, or without both kinds of trials.

        Example
        -------
        >>> from speechbrain_ext.metrics.trials import generate_trials
        >>> trials = generate_trials(list("aabbccddee"))
        >>> resamples = SpeakerResamples(list("aabbccddee"), number=4)
        >>> resamples.eer(1.0 * trials.label, trials).tolist()
        [0.0, 0.0, 0.0, 0.0]
        """
        scores, targets = check_trials(scores, trials.label)
        order = np.argsort(scores)
        scores, targets = scores[order], targets[order]
        one = self.speaker[np.asarray(trials.enrol)[order]]
        other = self.speaker[np.asarray(trials.test)[order]]
        for part in (targets, ~targets):
            present = np.unique([one[part], other[part]])
            if np.isin(present, self.drawn).sum() < MIN_SPEAKERS:
                return np.full(len(self.times), np.nan)
        # Weight of a trial: times[left] for targets, times[left] times
        # times[right] for others; a further "speaker" is drawn once always.
        left = one
        right = np.where(targets, self.times.shape[1], other)
        times = np.pad(self.times, ((0, 0), (0, 1)), constant_values=1)
        # Tied scores are accepted or rejected together: one step.
        steps = np.cumsum(np.append(False, scores[1:] != scores[:-1]))
        # Coarse: the weights of blocks of trials for all resamples at once,
        # fine: only within the block where the two error rates cross.
        even = np.linspace(0, len(scores), BLOCKS + 1).astype(int)[:-1]
        starts = np.unique(np.searchsorted(steps, steps[even]))
        starts = np.append(starts, len(scores))
        block = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        miss, reject = (
            _block_weights(left[part], right[part], block[part], times,
                           len(starts) - 1)
            for part in (targets, ~targets)
        )  # fmt: skip
        draws = np.full(len(times), np.nan)
        for r in np.flatnonzero((miss[:, -1] > 0) & (reject[:, -1] > 0)):
            n_targets, n_others = miss[r, -1], reject[r, -1]
            gaps = 1 - reject[r] / n_others - miss[r] / n_targets
            at = np.argmax(gaps <= 0) - 1  # column 0: before all trials
            part = slice(starts[at], starts[at + 1])
            weight = times[r][left[part]] * times[r][right[part]]
            last = np.append(np.diff(steps[part]) > 0, True)
            missed = np.cumsum(weight * targets[part])[last] + miss[r, at]
            rejected = np.cumsum(weight * ~targets[part])[last] + reject[r, at]
            missed = np.append(miss[r, at], missed) / n_targets
            gap = 1 - np.append(reject[r, at], rejected) / n_others - missed
            after = np.argmax(gap <= 0)
            share = gap[after - 1] / (gap[after - 1] - gap[after])
            draws[r] = missed[after - 1] + share * (
                missed[after] - missed[after - 1]
            )
        return draws

    @staticmethod
    def interval(draws, level=0.95):
        """Percentile interval of resampled values.

        Arguments
        ---------
        draws : array
            [number]; what is not finite is left out.
        level : float
            Share of the draws inside.

        Returns
        -------
        interval : list of float or None
            Lower and upper bound; None when more than 5 % of the draws are
            not finite, which would leave out resamples of one sort.

        Example
        -------
        >>> low, high = SpeakerResamples.interval(np.arange(81.0))
        >>> round(low, 3), round(high, 3)
        (2.0, 78.0)
        """
        finite = np.isfinite(draws)
        if np.mean(~finite) > MAX_MISSING:
            return None
        tail = (1 - level) / 2
        low, high = np.quantile(np.asarray(draws)[finite], [tail, 1 - tail])
        return [float(low), float(high)]


def _block_weights(left, right, block, times, blocks):
    """Weight of all trials up to the end of each block, in each resample.

    Speakers come as pairs, of which there are far fewer than trials; the
    first column is 0.
    """
    size = times.shape[1]
    pairs, pair = np.unique(left * size + right, return_inverse=True)
    counts = csr_matrix(
        (np.ones(len(pair)), (block, pair)), shape=(blocks, len(pairs))
    )
    # By speakers: whole rows are gathered, and numbers that are whole stay so.
    drawn = times.T.astype(np.float64)
    result = np.zeros((blocks + 1, len(times)))
    step = max(1, CHUNK // len(pairs))
    for start in range(0, len(times), step):
        part = np.ascontiguousarray(drawn[:, start : start + step])
        weights = part[pairs // size]
        weights *= part[pairs % size]
        result[1:, start : start + step] = counts @ weights
    return result.T.cumsum(axis=1)
