"""Statistics of the log-mel spectrogram: an encoder without weights."""

import torch
import torchaudio

from speechbrain_ext.lobes.pooled_encoder import PooledEncoder


class LogMelStatistics(PooledEncoder):
    """Means and deviations of the mel bands over an utterance.

    Of the log-mel spectrogram minus the utterance's global mean: mean and
    deviation of each band, deviation of the difference between frames that are
    two apart, and the mean of each band over four equal segments. The
    subtraction makes it blind to the level; the segments keep the coarse order
    in time.

    Clips under 25 ms are padded with zeros to 25 ms.

    Arguments
    ---------
    sample_rate : int
        In Hz.
    n_mels : int
        Bands.
    window_ms, hop_ms : float
        Length and distance of the frames, in milliseconds.
    floor : float
        Added to the power before the logarithm.
    n_segments : int
        Segments of which the means are taken.

    Example
    -------
    >>> encoder = LogMelStatistics()
    >>> encoder(torch.randn(2, 16000), torch.tensor([1.0, 0.3])).shape
    torch.Size([2, 1, 560])
    """

    def __init__(
        self,
        sample_rate=16000,
        n_mels=80,
        window_ms=25.0,
        hop_ms=10.0,
        floor=1e-6,
        n_segments=4,
    ):
        window = round(sample_rate * window_ms / 1000)
        super().__init__(
            sample_rate,
            parameters={
                "sample_rate": sample_rate,
                "n_mels": n_mels,
                "window_ms": window_ms,
                "hop_ms": hop_ms,
                "floor": floor,
                "n_segments": n_segments,
            },
            # Three frames, so that there is a difference over two of them.
            min_samples=window,
        )
        self.floor = floor
        self.segments = torch.nn.AdaptiveAvgPool1d(n_segments)
        # The next power of two: with fewer points the lowest bands are
        # narrower than the distance of two frequencies, and stay empty.
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate,
            n_fft=1 << (window - 1).bit_length(),
            win_length=window,
            hop_length=round(sample_rate * hop_ms / 1000),
            n_mels=n_mels,
        )

    def encode(self, wavs, lengths):
        """Statistics of utterances of equal length, shape [B, 1, dim]."""
        mel = torch.log(self.mel(wavs) + self.floor)  # [B, bands, frames]
        mel = mel - mel.mean(dim=(1, 2), keepdim=True)
        delta = mel[..., 2:] - mel[..., :-2]
        return torch.cat(
            [
                mel.mean(dim=2),
                mel.std(dim=2, correction=0),
                delta.std(dim=2, correction=0),
                self.segments(mel).transpose(1, 2).flatten(1),
            ],
            dim=1,
        ).unsqueeze(1)
