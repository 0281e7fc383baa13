"""Random recording channels, made from numbers alone."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from scipy.interpolate import PchipInterpolator

from speechbrain_ext.augment.interventions import Intervention


@dataclass
class RandomChannel(Intervention):
    """Send every clip through a recording channel of its own.

    An equaliser with smooth random gains over the logarithm of frequency and
    random band limits, a small room, and coloured noise. Nothing has to be
    downloaded. The channel depends on seed and key alone: not on the order of
    the calls, the process or the machine's threads.

    The room is an impulse response of exponentially decaying Gaussian noise
    after a direct path at its first sample, so the speech is not shifted.

    Arguments
    ---------
    seed : int
        Another seed gives every key another channel.
    sample_rate : int
        In Hz.
    gain_db : float
        Standard deviation of the equaliser's gains, in dB.
    n_gains : int
        Gains, at frequencies equally far apart on a logarithmic axis.
    low_cut_hz, high_cut_hz : tuple of float
        Range of the band limits (drawn uniformly over the logarithm).
    slope_order : tuple of int
        Range of the order of the band limits: an order is 6 dB an octave.
    rt60 : tuple of float
        Range of the time in seconds in which the reverberation decays by
        60 dB.
    direct_to_reverb_db : tuple of float
        Range of the energy of the direct path over the reverberation, in dB.
    noise_slope_db : tuple of float
        Range of the slope of the noise's power, in dB an octave: 0 is white,
        -3 pink, -6 brown.
    snr_db : tuple of float
        Range of the signal-to-noise ratio over the whole clip, in dB.

    Attributes
    ----------
    identity : dict
        All of the above, JSON-able, for the key of a cache.

    Example
    -------
    >>> channel = RandomChannel(seed=1)
    >>> wav = torch.sin(torch.arange(16000) / 5)
    >>> channel(wav, "a").shape
    torch.Size([16000])
    >>> bool((channel(wav, "a") == channel(wav, "b")).all())
    False
    """

    gain_db: float = 6.0
    n_gains: int = 8
    low_cut_hz: tuple = (30.0, 300.0)
    high_cut_hz: tuple = (3000.0, 8000.0)
    slope_order: tuple = (1, 4)
    rt60: tuple = (0.05, 0.4)
    direct_to_reverb_db: tuple = (0.0, 20.0)
    noise_slope_db: tuple = (-6.0, 0.0)
    snr_db: tuple = (5.0, 30.0)

    def _equaliser(self, rng):
        """Gain at the frequencies of ``_grid``."""
        frequency = self._grid()
        low, high = np.exp(
            [
                rng.uniform(*np.log(self.low_cut_hz)),
                rng.uniform(*np.log(self.high_cut_hz)),
            ]
        )
        orders = rng.integers(*self.slope_order, size=2, endpoint=True)
        knots = np.linspace(np.log(60.0), np.log(8000.0), self.n_gains)
        gains = self.gain_db * rng.standard_normal(self.n_gains)
        octave = np.log(np.clip(frequency, 60.0, 8000.0))
        gain = 10 ** (PchipInterpolator(knots, gains)(octave) / 20)
        # Magnitudes of Butterworth filters; frequency 0 is cut off.
        below = low / np.maximum(frequency, 1e-3)
        gain /= np.sqrt(1 + below ** (2 * orders[0]))
        gain /= np.sqrt(1 + (frequency / high) ** (2 * orders[1]))
        return gain

    def _room(self, rng):
        """Impulse response with a direct path of 1 at its start."""
        rt60 = rng.uniform(*self.rt60)
        ratio = 10 ** (-rng.uniform(*self.direct_to_reverb_db) / 20)
        time = np.arange(1, max(2, round(rt60 * self.sample_rate)))
        decay = 10 ** (-3 * time / (rt60 * self.sample_rate))
        tail = rng.standard_normal(len(time)) * decay
        tail *= ratio / np.linalg.norm(tail)
        return np.concatenate([[1.0], tail])

    def _grid(self):
        """Frequencies in Hz that the gains are computed at."""
        return np.linspace(0.0, self.sample_rate / 2, 1025)

    def _resample(self, gain, size):
        """Gains on ``_grid`` at the frequencies of a real FFT of a size."""
        return np.interp(
            np.linspace(0.0, 1024.0, size // 2 + 1), np.arange(1025), gain
        ).astype(np.float32)

    def _noise(self, n_samples, rng):
        """Coloured noise of unknown level, shape [n_samples]."""
        slope = rng.uniform(*self.noise_slope_db)
        size = fft.next_fast_len(n_samples, real=True)
        white = rng.standard_normal(size, dtype=np.float32)
        # 6.02 dB an octave is a factor of 1/f. Flat below 50 Hz, where the
        # power of brown noise would otherwise be.
        shape = np.maximum(self._grid(), 50.0) ** (slope / 6.02)
        spectrum = fft.rfft(white) * self._resample(shape, size)
        return fft.irfft(spectrum, size)[:n_samples]

    def __call__(self, wav, key):
        """Send a clip through the channel of a key.

        Arguments
        ---------
        wav : torch.Tensor
            Waveform, shape [time].
        key : str
            The utterance's ID.

        Returns
        -------
        torch.Tensor
            float32, of the same length and root mean square, on the CPU.
            Silence stays silence.
        """
        rng = self.generator(key)
        clean = wav.detach().cpu().numpy().astype(np.float32)
        rms = np.sqrt(np.mean(clean**2, dtype=np.float64))
        if not rms > 0:
            return torch.from_numpy(clean)
        room = self._room(rng)
        # Room for the tail of the response, so that nothing wraps around.
        size = fft.next_fast_len(len(clean) + len(room), real=True)
        response = self._resample(self._equaliser(rng), size)
        response = response * fft.rfft(room.astype(np.float32), size)
        signal = fft.irfft(fft.rfft(clean, size) * response, size)
        signal = signal[: len(clean)]
        noise = self._noise(len(clean), rng)
        snr = 10 ** (rng.uniform(*self.snr_db) / 20)
        level = np.linalg.norm(signal) / max(np.linalg.norm(noise), 1e-20)
        mixed = signal + noise * (level / snr)
        mixed *= rms * np.sqrt(len(mixed)) / max(np.linalg.norm(mixed), 1e-20)
        return torch.from_numpy(mixed.astype(np.float32))
