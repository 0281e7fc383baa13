"""What tells voices apart, as numbers that the student learns to predict.

Mean, deviation and delta deviation of the log-mel bands, projected on the
directions of a linear discriminant analysis of the pseudo-speakers. They are
known for recordings without labels too.
"""

from pathlib import Path

import torch
from clips import compute_once
from tqdm import tqdm

from speechbrain_ext.lobes.log_mel import LogMelStatistics
from speechbrain_ext.processing.closed_form import lda_directions
from speechbrain_ext.processing.scatter import Rows, Scatter
from speechbrain_ext.utils.files import digest


class VoiceTargets(torch.nn.Module):
    """Discriminant projection of the log-mel statistics.

    Arguments
    ---------
    dims : int
        Dimensions wanted; at most one less than there are speakers.
    shrinkage : float
        See :func:`speechbrain_ext.processing.closed_form.lda_directions`.
    """

    def __init__(self, dims=120, shrinkage=0.3):
        super().__init__()
        self.config = {"dims": dims, "shrinkage": shrinkage}
        self.dims = dims
        self.log_mel = LogMelStatistics()
        # Without the segments, whose order a mean over time cannot know.
        self.size = 3 * self.log_mel.mel.n_mels

    def statistics(self, wavs, lengths=None):
        """Mean and deviations of the bands, [B, 3 * bands].

        Arguments
        ---------
        wavs : torch.Tensor
            [B, time], padded at the end.
        lengths : torch.Tensor
            Relative, [B]. Default: all full.
        """
        return self.log_mel(wavs, lengths)[:, 0, : self.size]

    def fit(self, clips, folder):
        """Find the directions, and the voice of every clip as recorded.

        Arguments
        ---------
        clips : Clips
            See ``clips.py``; those with a label give the directions.
        folder : str or Path
            Keeps them: of an eigenvector another machine may find the
            negative, and training would not go on where it stopped.

        Returns
        -------
        torch.Tensor
            [clips, dims].
        """
        key = digest([self.config, clips.digest, clips.speakers.tolist()])
        path = Path(folder) / f"voices-{key}.pt"
        compute_once(path, lambda free: torch.save(self._find(clips), free))
        found = torch.load(path, weights_only=True)
        self.register_buffer("weight", found["weight"])
        self.register_buffer("mean", found["mean"])
        self.dims = len(self.weight)
        return found["voices"]

    def _find(self, clips):
        numbers = tqdm(range(len(clips)), "voices", dynamic_ncols=True)
        statistics = torch.cat(
            [self.statistics(clips.speech(number)[None]) for number in numbers]
        )
        known = clips.speakers >= 0
        mean = statistics[known].mean(dim=0)
        rows = Rows(statistics[known] - mean)
        scatter = Scatter(rows, {"speaker": clips.speakers[known]})
        weight = lda_directions(scatter, "speaker", **self.config)
        weight = torch.from_numpy(weight).float()
        voices = (statistics - mean) @ weight.T
        # On the whole of variance one; a direction counts by what it tells.
        scale = voices[known].square().mean().sqrt()
        return {
            "weight": weight / scale,
            "mean": mean,
            "voices": voices / scale,
        }

    def forward(self, wavs, lengths=None):
        """Voice as it is heard, [B, dims]; see :meth:`statistics`."""
        return (self.statistics(wavs, lengths) - self.mean) @ self.weight.T
