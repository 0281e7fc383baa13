"""Interventions on single recordings, which need no label.

Each changes one factor of a recording at random and leaves the others: a crop
changes the content, a random channel the channel
(:class:`~speechbrain_ext.augment.channel.RandomChannel`), a random speed the
voice.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torchaudio


@dataclass
class Intervention:
    """Base class, of dataclasses.

    A subclass implements ``__call__(wav, key)``: a waveform [time] and the
    utterance's ID -> the changed waveform. It depends on seed and key alone:
    not on the order of the calls, the process or the machine's threads.

    Arguments
    ---------
    seed : int
        Another seed gives every key another change.
    sample_rate : int
        In Hz.
    """

    seed: int
    sample_rate: int = 16000

    version = 1  # raised when a change of the class changes its signals

    @property
    def identity(self):
        """What determines the signals, JSON-able, for the key of a cache."""
        fields = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }
        return {"class": type(self).__name__, "version": self.version, **fields}

    def generator(self, key):
        """The random numbers of an utterance."""
        digest = hashlib.blake2b(f"{self.seed}\0{key}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "little"))


@dataclass
class RandomCrop(Intervention):
    """Keep a random part of each recording: other content, the same voice.

    Arguments
    ---------
    seed : int
        Another seed gives every key another part.
    sample_rate : int
        In Hz.
    share : tuple of float
        Range of the part's length, of the whole.
    min_seconds : float
        Least length; a recording that is shorter stays whole.
    half : int
        Keep the first half (0) or the second (1), which have nothing in
        common but where they are shorter than ``min_seconds``. Default: a
        random part.

    Example
    -------
    >>> import torch
    >>> crop = RandomCrop(seed=1)
    >>> 0.4 * 32000 <= len(crop(torch.zeros(32000), "a")) <= 0.7 * 32000
    True
    >>> RandomCrop(seed=1, half=1)(torch.arange(32000), "a")[0].item()
    16000
    """

    share: tuple = (0.4, 0.7)
    min_seconds: float = 0.5
    half: int | None = None

    def __call__(self, wav, key):
        """[time] -> [less time]."""
        least = round(self.min_seconds * self.sample_rate)
        if self.half is not None:
            size = max(len(wav) // 2, least)
            return wav[-size:] if self.half else wav[:size]
        rng = self.generator(key)
        size = max(round(rng.uniform(*self.share) * len(wav)), least)
        start = rng.integers(max(len(wav) - size, 0), endpoint=True)
        return wav[start : start + size]


@dataclass
class RandomSpeed(Intervention):
    """Play each recording faster or slower: another voice, the same words.

    Pitch, formants and speaking rate change together, as of a tape.

    Arguments
    ---------
    seed : int
        Another seed gives every key another speed.
    sample_rate : int
        In Hz.
    speed : tuple of float
        Range of the speed (drawn uniformly over the logarithm).

    Example
    -------
    >>> import torch
    >>> speed = RandomSpeed(seed=1, speed=(1.25, 1.25))
    >>> speed(torch.zeros(16000), "a").shape
    torch.Size([12800])
    """

    speed: tuple = (0.75, 1.33)

    def __call__(self, wav, key):
        """[time] -> [other time]."""
        low, high = np.log(self.speed)
        speed = np.exp(self.generator(key).uniform(low, high))
        # In steps of 1 %, of which the filters are small.
        return torchaudio.functional.resample(
            wav, max(round(100 * speed), 1), 100
        )


class Chain:
    """Several interventions, one after the other.

    Arguments
    ---------
    *parts : Intervention
        In their order.

    Example
    -------
    >>> Chain(RandomCrop(1), RandomSpeed(2)).identity["parts"][1]["seed"]
    2
    """

    def __init__(self, *parts):
        self.parts = parts

    @property
    def identity(self):
        """That of all parts."""
        parts = [part.identity for part in self.parts]
        return {"class": "Chain", "parts": parts}

    def __call__(self, wav, key):
        """[time] -> [other time]."""
        for part in self.parts:
            wav = part(wav, key)
        return wav
