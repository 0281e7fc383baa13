"""Audio of the utterances of a manifest: checked, read, resampled."""

import functools
import math
import os
import re

import soundfile
import torch
import torchaudio
from scipy.signal import resample_poly

from speechbrain.dataio import audio_io
from speechbrain.utils.logger import get_logger
from speechbrain_ext.dataio.columns import columns_of, set_values
from speechbrain_ext.dataio.remote import (
    in_threads,
    is_elsewhere,
    is_remote,
    with_audio,
)
from speechbrain_ext.utils.errors import InputError, Unreachable

logger = get_logger(__name__)

# No speech is shorter, in seconds: it was meant in another unit.
MIN_SEGMENT = 0.01
# Of speech, in Hz; others are damaged headers, and cost gigabytes.
RATES = (1000, 768000)
# Of the rates without their common divisor; beyond it the filters of torchaudio
# take gigabytes.
MAX_RATIO = 1000
# Of samples that are to be in [-1, 1], which the peaks of floats may exceed;
# whole numbers that were stored as floats are far beyond.
MAX_SAMPLE = 10


def audio_info(path):
    """Length, rate and channels of an audio file, from its header.

    Arguments
    ---------
    path : str or Path
        The file, or the address of one.

    Returns
    -------
    soundfile._SoundFileInfo
        With ``frames``, ``samplerate``, ``channels`` and ``duration``.

    Raises
    ------
    InputError
        If there is no such file, or it is not audio.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, [0.0] * 800, 16000)
    >>> audio_info(path).duration
    0.05
    """
    path = str(path)
    if not (is_remote(path) or os.path.isfile(path)):  # or may not be asked
        raise InputError(f"There is no file {path}")
    try:
        if is_remote(path):
            return with_audio(path, soundfile.info, part=True)
        return soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} is not readable audio ({error.error_string})")
    # The last one of names that are not in UTF-8.
    except (RuntimeError, OSError, UnicodeError) as error:
        raise InputError(f"{path} is not readable audio ({error})")


def warn_of_cut_off(infos):
    """Warn of WAV files that end before what their headers promise.

    Arguments
    ---------
    infos : dict
        Path -> what :func:`audio_info` says of it.
    """
    cut_off = {}
    for path, info in infos.items():
        # What libsndfile notes. A stream, of unknown length, says 2 or 4 GB.
        said = re.search(r"data : (\d+) \(should be (\d+)\)", info.extra_info)
        if said and int(said[2]) + 1 < int(said[1]) < 2e9:  # 1: a pad byte
            cut_off[path] = info.frames * int(said[1]) // int(said[2])
    if cut_off:
        path, promised = next(iter(cut_off.items()))
        logger.warning(
            f"{len(cut_off)} of {len(infos)} audio files are cut off, e.g. "
            f"{path}, which has {infos[path].frames} samples of {promised}: "
            "copy them again, if they are to be whole"
        )


def check_audio(dataset, sample_rate=16000, resample=True, unreadable=None):
    """Check every file of a dataset before any work starts on it.

    Reads headers only. Sets ``duration`` (seconds).

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`~speechbrain_ext.dataio.manifest.load_manifest`.
    sample_rate : int
        Rate in Hz that the encoder takes.
    resample : bool
        Whether other rates are allowed (they are converted on reading).
    unreadable : dict
        Filled with utterances that are wrong, ID -> why. Default: the first
        ends the call.

    Raises
    ------
    InputError
        If a file is missing, unreadable or empty, a segment lies outside its
        file or is not in samples, or a rate is not one of speech, or differs
        while ``resample`` is off.
    """
    data = columns_of(dataset)
    wavs = data.values_of("wav")
    infos = in_threads(_info_or_error, filter(is_elsewhere, wavs))
    durations = {}
    for key, row in data.items():
        try:
            durations[key] = _check_row(key, row, infos, sample_rate, resample)
        except InputError as error:
            if unreadable is None or isinstance(error, Unreachable):
                raise
            unreadable[key] = str(error)
    infos = {wav: i for wav, i in infos.items() if hasattr(i, "frames")}
    set_values(dataset.data, "duration", durations)
    warn_of_cut_off(infos)


def _info_or_error(wav):
    """What :func:`audio_info` gives or raises of a file."""
    try:
        return audio_info(wav)
    except InputError as error:
        return error


def _check_row(key, row, infos, sample_rate, resample):
    """Check the file of an utterance; its length in seconds."""
    wav = row["wav"]
    if wav not in infos:
        if not (is_remote(wav) or os.path.isfile(wav)):
            hint = "; check the column wav and --data_folder"
            raise InputError(
                f"Utterance '{key}': no file {wav}"
                + ("" if wav.endswith(key) else hint)
            )
        infos[wav] = audio_info(wav)
    info = infos[wav]
    if isinstance(info, InputError):
        raise info
    start, stop = row.get("start", 0), row.get("stop", info.frames)
    if info.frames == 0:
        raise InputError(f"Utterance '{key}': {wav} is empty")
    if not 0 <= start < stop <= info.frames:
        raise InputError(
            f"Utterance '{key}': samples {start} to {stop} are not in "
            f"{wav}, which has {info.frames}"
        )
    _check_rate(key, wav, info.samplerate)
    is_segment = "start" in row or "stop" in row
    if is_segment and stop - start < MIN_SEGMENT * info.samplerate:
        raise InputError(
            f"Utterance '{key}': a segment of {stop - start} samples: "
            "start and stop are in samples, not seconds"
        )
    if info.samplerate != sample_rate and not resample:
        raise InputError(
            f"Utterance '{key}': {wav} has {info.samplerate} Hz, expected "
            f"{sample_rate}; convert it or set --resample=True"
        )
    return (stop - start) / info.samplerate


def _check_rate(key, wav, rate):
    """Refuse rates of which no speech is."""
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(
            f"Utterance '{key}': {wav} has {rate} Hz, expected {RATES[0]} to "
            f"{RATES[1]}: its header is wrong, or it is not speech"
        )


def read_audio(key, wav, start=None, stop=None, sample_rate=16000):
    """Read an utterance as one channel at a given rate.

    Arguments
    ---------
    key : str
        The utterance's ID, for messages.
    wav : str
        A file, or the address of one.
    start, stop : int
        First sample and the sample after the last one, at the file's own
        rate. Default: the whole file.
    sample_rate : int
        Wanted rate in Hz; other rates are converted.

    Returns
    -------
    torch.Tensor
        The samples, shape [time], channels averaged.

    Raises
    ------
    InputError
        If the file cannot be decoded, is empty, has a rate that speech has
        not, or samples that are not finite or far beyond [-1, 1].
    """
    elsewhere, part = is_remote(wav), not (start is stop is None)
    if not (elsewhere or os.path.isfile(wav)):
        raise InputError(f"Utterance '{key}': there is no file {wav}")
    start = start or 0
    frames = -1 if stop is None else stop - start
    load = functools.partial(
        audio_io.load, frame_offset=start, num_frames=frames
    )
    try:
        signal, rate = with_audio(wav, load, part) if elsewhere else load(wav)
    except (RuntimeError, OSError) as error:
        error = getattr(error.__cause__, "error_string", error)
        raise InputError(f"Utterance '{key}': cannot decode {wav} ({error})")
    _check_rate(key, wav, rate)
    signal = signal.mean(dim=0)
    if signal.numel() == 0:
        raise InputError(f"Utterance '{key}': {wav} is empty")
    low, high = (float(extreme) for extreme in signal.aminmax())
    if not math.isfinite(high - low):
        raise InputError(
            f"Utterance '{key}': {wav} has samples that are NaN or infinite"
        )
    if (peak := max(high, -low)) > MAX_SAMPLE:
        raise InputError(
            f"Utterance '{key}': {wav} has samples up to {peak:.0f}, expected "
            "-1 to 1: divide them by 32768 if they were 16-bit numbers, and "
            "write the file again"
        )
    if high - low < 1e-4:  # some steps of 16 bits
        logger.warning(
            f"Utterance '{key}': {wav} is silent (its channels are averaged)"
        )
    if rate == sample_rate:
        return signal
    common = math.gcd(rate, sample_rate)
    if max(rate, sample_rate) // common <= MAX_RATIO:
        return torchaudio.functional.resample(signal, rate, sample_rate)
    up, down = sample_rate // common, rate // common
    return torch.from_numpy(resample_poly(signal.numpy(), up, down)).float()


class AudioDataset(torch.utils.data.Dataset):
    """The audio of a dataset, as items ``id``, ``sig`` and ``problem``.

    Other than a dynamic item of SpeechBrain, it can be sent to processes that
    are started afresh.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`~speechbrain_ext.dataio.manifest.load_manifest`.
    sample_rate : int
        Rate in Hz.
    channel : callable
        ``channel(signal, key) -> signal``, such as
        :class:`speechbrain_ext.augment.channel.RandomChannel`.
    utterances : list of str
        What each row is of, where some are windows. Default: their IDs.
    tolerant : bool
        Give silence for what cannot be read, and say why in ``problem``.
    """

    def __init__(
        self,
        dataset,
        sample_rate=16000,
        channel=None,
        utterances=None,
        tolerant=False,
    ):
        self.data, self.ids = dataset.data, list(dataset.data)
        self.utterances = utterances or self.ids
        self.sample_rate, self.channel = sample_rate, channel
        self.tolerant = tolerant

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        key, row = self.utterances[index], self.data[self.ids[index]]
        segment = row["wav"], row.get("start"), row.get("stop")
        try:
            signal = read_audio(key, *segment, self.sample_rate)
        except InputError as error:
            if not self.tolerant or isinstance(error, Unreachable):
                raise
            signal = torch.zeros(self.sample_rate)
            return {"id": key, "sig": signal, "problem": str(error)}
        if self.channel is not None:
            signal = self.channel(signal, key)
        return {"id": key, "sig": signal, "problem": None}
