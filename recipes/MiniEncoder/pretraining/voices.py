"""What tells voices apart, as numbers that the student learns to predict.

Mean, deviation and delta deviation of the log-mel bands, projected on the
directions of a linear discriminant analysis of the pseudo-speakers. They are
known for recordings without labels too.
"""

import torch
from tqdm import tqdm

from speechbrain_ext.evaluation.closed_form import lda_directions
from speechbrain_ext.lobes.log_mel import LogMelStatistics


class Voice(torch.nn.Module):
    """Discriminant projection of the log-mel statistics.

    Arguments
    ---------
    dims : int
        Dimensions wanted; at most one less than there are speakers.
    shrinkage : float
        See :func:`speechbrain_ext.evaluation.closed_form.lda_directions`.
    """

    def __init__(self, dims=120, shrinkage=0.3):
        super().__init__()
        self.log_mel = LogMelStatistics()
        # Without the segments, whose order a mean over time cannot know.
        self.size = 3 * self.log_mel.dim // (3 + self.log_mel.n_segments)
        self.dims, self.shrinkage = dims, shrinkage

    def statistics(self, wavs, lengths):
        """Mean and deviations of the bands, [B, 3 * bands].

        Arguments
        ---------
        wavs : torch.Tensor
            [B, time], padded at the end.
        lengths : torch.Tensor
            Samples of each, [B].
        """
        relative = lengths / wavs.shape[1]
        return self.log_mel(wavs, relative)[:, 0, : self.size]

    def fit(self, clips):
        """Find the directions, and the voice of every clip as recorded.

        Arguments
        ---------
        clips : Clips
            See ``clips.py``; those with a label give the directions.

        Returns
        -------
        torch.Tensor
            [clips, dims].
        """
        rows = []
        for number in tqdm(range(len(clips)), "voices", dynamic_ncols=True):
            wav = clips.speech(number)[None]
            rows.append(self.statistics(wav, torch.tensor([wav.shape[1]])))
        statistics = torch.cat(rows)
        known = clips.speakers >= 0
        directions = lda_directions(
            statistics[known].numpy(),
            clips.speakers[known],
            self.dims,
            self.shrinkage,
        )
        self.register_buffer("weight", torch.from_numpy(directions).float())
        self.register_buffer("mean", statistics[known].mean(dim=0))
        self.dims = len(directions)
        # On the whole of variance one; a direction counts by what it tells.
        self.weight /= self.project(statistics[known]).square().mean().sqrt()
        return self.project(statistics)

    def project(self, statistics):
        """Voice, [B, dims], of statistics [B, 3 * bands]."""
        return (statistics - self.mean) @ self.weight.T

    def forward(self, wavs, lengths):
        """Voice as it is heard, [B, dims]; see :meth:`statistics`."""
        return self.project(self.statistics(wavs, lengths))
