"""Clips in memory, and random crops of them through random channels."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.dataio.manifest import load_manifest
from speechbrain_ext.dataio.splits import in_split
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import replacing

# Kernels and strides of Moonshine's convolutions, and so of the student's.
KERNELS, STRIDES = (127, 7, 3), (64, 3, 2)
FRAME = 384  # samples from frame to frame


def n_frames(n_samples):
    """Frames that the convolutions make of a waveform.

    Example
    -------
    >>> n_frames(895), n_frames(895 + 384)
    (1, 2)
    """
    for kernel, stride in zip(KERNELS, STRIDES):
        n_samples = (n_samples - kernel) // stride + 1
    return n_samples


def compute_once(path, write):
    """Have a file written where it is not there yet, by one of many processes.

    Arguments
    ---------
    path : str or Path
        The file.
    write : callable
        Gets a path to write to.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.npy"
    >>> for _ in range(2):
    ...     compute_once(path, lambda free: print(np.save(free, np.ones(2))))
    None
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not Path(path).is_file():
            with replacing(path) as temporary:
                write(temporary)


class Clips:
    """All training audio, decoded once, as 16-bit samples.

    Synthetic words get faint noise around them, as recorded ones have.
    Synthetic clips are made a whole number of ``10 * FRAME`` samples long by
    noise after them, so that many have the same length.

    Arguments
    ---------
    synthetic_folder : str or Path
        From ``mini_prepare.py``.
    recordings : list of dict
        Further manifests of real speech, used without any labels: ``folder``,
        if only one split is for training ``split``, and ``repeat``, how often
        a clip is in an epoch.
    seed : int
        Of the noise.

    Attributes
    ----------
    ids : tuple of str
        ID of each clip in its manifest.
    lengths : numpy.ndarray
        Samples of each clip.
    frame_starts : numpy.ndarray
        First frame of each clip among the frames of all, and their number.
    speakers, words : numpy.ndarray
        Label of each clip, -1 where there is none.
    repeats : numpy.ndarray
        How often each clip is in an epoch.
    digest : str
        Of all samples.
    """

    def __init__(self, synthetic_folder, recordings, seed=0):
        rng = np.random.default_rng(seed)
        codes = {"speaker": {"": -1}, "word": {"": -1}}
        self.waves, clips = [], []
        for key, row, labelled, repeat in _rows(synthetic_folder, recordings):
            segment = row.get("start"), row.get("stop")
            wav = (read_audio(key, row["wav"], *segment) * 32768).round()
            wav = wav.clamp(-32768, 32767).numpy().astype(np.int16)
            speaker, word = (
                known.setdefault(
                    row.get(name, "") if labelled else "", len(known) - 1
                )
                for name, known in codes.items()
            )
            lead = int(rng.integers(0, 4800)) if word >= 0 else 0
            tail = -(lead + len(wav)) % (10 * FRAME) if labelled else 0
            # 50 dB below synthetic speech.
            noise = 5 * rng.standard_normal(lead + tail)
            before, after = np.split(noise.round().astype(np.int16), [lead])
            self.waves.append(np.concatenate([before, wav, after]))
            clips.append((key, speaker, word, repeat, lead, len(wav)))
        self.ids, *columns = zip(*clips)
        self.speakers, self.words, self.repeats, *speech = np.array(columns)
        self.speech_starts, self.speech_lengths = speech
        self.lengths = np.array([len(wave) for wave in self.waves])
        frames = [n_frames(length) for length in self.lengths]
        self.frame_starts = np.concatenate([[0], np.cumsum(frames)])
        self.digest = hashlib.sha256(np.concatenate(self.waves)).hexdigest()

    def __len__(self):
        return len(self.waves)

    def audio(self, number, start=0, length=None):
        """Samples of a clip as floats in [-1, 1]."""
        samples = self.waves[number][start:][:length]
        return torch.from_numpy(samples.astype(np.float32) / 32768)

    def speech(self, number):
        """Samples of a clip without the noise around it."""
        return self.audio(
            number, self.speech_starts[number], self.speech_lengths[number]
        )


def _rows(synthetic_folder, recordings):
    """ID and row of all clips, whether their labels are used, repeats."""
    sources = [({"folder": synthetic_folder}, True)]
    sources += [(one, False) for one in recordings]
    for source, labelled in sources:
        repeat = source.get("repeat", 1)
        known = source.keys() <= {"folder", "split", "repeat"}
        if not known or type(repeat) is not int or repeat < 1:
            raise InputError(
                f"recordings has {dict(source)}: expected a folder, and "
                "optionally a split and repeat, a number of 1 or more"
            )
        dataset = load_manifest(f"{source['folder']}/manifest.csv")
        for key in in_split(dataset, source.get("split")):
            yield key, dataset.data[key], labelled, repeat


@dataclasses.dataclass(eq=False)
class Crops(torch.utils.data.Dataset):
    """Random crops through random channels, with the teacher's frames.

    The teacher heard the clip without the channel: what is learned is to hear
    through it.

    Arguments
    ---------
    clips : Clips
        The audio.
    targets : array
        The teacher's frames, [frames, layers, dim].
    voices : torch.Tensor
        See ``voices.py``; of each clip as recorded, [clips, voice dims].
    channel : callable
        Makes a channel from ``seed``; see
        :class:`speechbrain_ext.augment.channel.RandomChannel`.
    numbers : sequence of int
        Clips to use; one that occurs again gives another crop.
    max_seconds : float
        Longest crop.
    channel_share : float
        Of the crops that go through a channel.
    seed : int
        With epoch and index it determines crop and channel.
    epoch : int
        To be set before each epoch.
    """

    clips: Clips
    targets: np.ndarray
    voices: torch.Tensor
    channel: Callable
    numbers: Sequence
    max_seconds: float = 2.0
    channel_share: float = 0.8
    seed: int = 0
    epoch: int = 0

    def __post_init__(self):
        longest = int(self.max_seconds * 16000)
        self.lengths = np.minimum(self.clips.lengths[self.numbers], longest)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number, length = self.numbers[index], int(self.lengths[index])
        rng = np.random.default_rng([self.seed, self.epoch, index])
        room = int(self.clips.lengths[number] - length) // FRAME
        offset = int(rng.integers(0, room + 1))
        wav = self.clips.audio(number, FRAME * offset, length)
        if rng.random() < self.channel_share:
            channel = self.channel(seed=f"{self.seed} {self.epoch}")
            wav = channel(wav, f"{index} {self.clips.ids[number]}")
        first = self.clips.frame_starts[number] + offset
        targets = self.targets[first : first + n_frames(length)]
        return {
            "wav": wav,
            "targets": torch.from_numpy(np.array(targets)),
            "voice": self.voices[number],
            "speaker": self.clips.speakers[number],
            "word": self.clips.words[number],
        }

    def loading(self, batch_seconds, shuffle=False):
        """Options of a data loader: batches of crops of similar length.

        Arguments
        ---------
        batch_seconds : float
            Audio of a batch with its padding, at most.
        shuffle : bool
            Whether each epoch has other batches in another order.

        Returns
        -------
        dict
            A batch is a ``PaddedBatch`` of what a crop has.
        """
        # Four groups of similar size, by their longest crops.
        longest = np.quantile(self.lengths, (0.25, 0.5, 0.75, 1.0)).astype(int)
        sampler = DynamicBatchSampler(
            self,
            max_batch_length=int(batch_seconds * 16000),
            bucket_boundaries=sorted(set(longest.tolist())),
            lengths_list=self.lengths.tolist(),
            shuffle=shuffle,
            seed=self.seed,
        )
        collate = functools.partial(PaddedBatch, padded_keys=["wav", "targets"])
        return {"batch_sampler": sampler, "collate_fn": collate}
