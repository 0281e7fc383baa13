"""Clips in memory, and random crops of them through random channels."""

import hashlib

import numpy as np
import soundfile
import torch
from speechbrain.dataio.sampler import DynamicBatchSampler

from speechbrain_ext.dataio.manifest import in_split, load_manifest
from speechbrain_ext.utils.errors import InputError

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


def read_samples(path):
    """Samples of a file as it is, int16 [time]."""
    try:
        wav, rate = soundfile.read(path, dtype="int16")
    except soundfile.LibsndfileError as error:
        raise InputError(f"Cannot decode {path}: {error}")
    if rate != 16000 or wav.ndim != 1:
        raise InputError(
            f"{path} has {rate} Hz and shape {wav.shape}: recordings for "
            "pre-training must be of one channel at 16000 Hz"
        )
    return wav


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
    lengths : numpy.ndarray
        Samples of each clip.
    frame_starts : numpy.ndarray
        First frame of each clip among the frames of all, and their number.
    speakers, words : numpy.ndarray
        Label of each clip, -1 where there is none.
    repeats : numpy.ndarray
        How often each clip is in an epoch.
    """

    def __init__(self, synthetic_folder, recordings, seed=0):
        self.ids, waves, self.speakers, self.words = [], [], [], []
        self.repeats, self._speech = [], []
        rng = np.random.default_rng(seed)
        codes = {"speaker": {"": -1}, "word": {"": -1}}
        rows = self._rows(synthetic_folder, recordings)
        for row, labelled, repeat in rows:
            wav = read_samples(row["wav"])
            labels = {}
            for name, known in codes.items():
                value = row.get(name, "") if labelled else ""
                labels[name] = known.setdefault(value, len(known) - 1)
            lead = int(rng.integers(0, 4800)) if labels["word"] >= 0 else 0
            whole = 10 * FRAME if labelled else 1
            tail = -(lead + len(wav)) % whole
            # 50 dB below synthetic speech.
            noise = 5 * rng.standard_normal(lead + tail)
            before, after = np.split(noise.round().astype(np.int16), [lead])
            waves.append(np.concatenate([before, wav, after]))
            self._speech.append((lead, len(wav)))
            self.ids.append(row["id"])
            self.speakers.append(labels["speaker"])
            self.words.append(labels["word"])
            self.repeats.append(repeat)
        if not waves:
            raise InputError("There are no clips to train on")
        self.n_speakers = len(codes["speaker"]) - 1
        self.n_words = len(codes["word"]) - 1
        self.speakers, self.words = (
            np.array(self.speakers),
            np.array(self.words),
        )
        self.repeats = np.array(self.repeats)
        self.lengths = np.array([len(wave) for wave in waves])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        frames = [n_frames(length) for length in self.lengths]
        self.frame_starts = np.concatenate([[0], np.cumsum(frames)])
        self.samples = np.concatenate(waves)
        self.digest = hashlib.sha256(self.samples).hexdigest()

    @staticmethod
    def _rows(synthetic_folder, recordings):
        """Rows of all manifests, whether their labels are used, repeats."""
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
                yield {"id": key, **dataset.data[key]}, labelled, repeat

    def __len__(self):
        return len(self.lengths)

    def audio(self, number, start=0, length=None):
        """Samples of a clip as floats in [-1, 1]."""
        length = self.lengths[number] - start if length is None else length
        first = self.starts[number] + start
        samples = self.samples[first : first + length]
        return torch.from_numpy(samples.astype(np.float32) / 32768)

    def speech(self, number):
        """Samples of a clip without the noise around it."""
        return self.audio(number, *self._speech[number])

    @property
    def hours(self):
        """Of audio."""
        return len(self.samples) / 16000 / 3600


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

    Attributes
    ----------
    epoch : int
        To be set before each epoch.
    """

    def __init__(
        self,
        clips,
        targets,
        voices,
        channel,
        numbers,
        max_seconds=2.0,
        channel_share=0.8,
        seed=0,
    ):
        self.clips, self.targets, self.voices = clips, targets, voices
        self.numbers = list(numbers)
        self.channel, self.channel_share = channel, channel_share
        longest = int(max_seconds * 16000)
        self.lengths = np.minimum(clips.lengths[self.numbers], longest)
        self.seed, self.epoch = seed, 0

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

    @staticmethod
    def collate(items):
        """Waveforms and frames padded with zeros, lengths, and labels."""
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "wavs": pad([item["wav"] for item in items], True),
            "lengths": torch.tensor([len(item["wav"]) for item in items]),
            "targets": pad([item["targets"] for item in items], True),
            "counts": torch.tensor([len(item["targets"]) for item in items]),
            "voices": torch.stack([item["voice"] for item in items]),
            "speakers": torch.tensor([item["speaker"] for item in items]),
            "words": torch.tensor([item["word"] for item in items]),
        }

    def _boundaries(self):
        """Longest crop of each of up to four groups of similar size."""
        shares = np.quantile(self.lengths, (0.25, 0.5, 0.75, 1.0))
        return sorted(set(shares.astype(int).tolist()))

    def batches(self, batch_seconds, shuffle=True):
        """Batches of crops of similar length."""
        return DynamicBatchSampler(
            self,
            max_batch_length=int(batch_seconds * 16000),
            bucket_boundaries=self._boundaries(),
            lengths_list=self.lengths.tolist(),
            shuffle=shuffle,
            seed=self.seed,
        )
