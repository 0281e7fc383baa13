"""Audio of the utterances of a manifest: checked, read, resampled."""

from pathlib import Path

import soundfile
import torch
import torchaudio

import speechbrain as sb
from speechbrain.dataio import audio_io
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain_ext.utils.errors import InputError


def audio_info(path):
    """Length, rate and channels of an audio file, from its header.

    Arguments
    ---------
    path : str or Path
        The file.

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
    try:
        return soundfile.info(str(path))
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path} is not readable audio ({error})")


def check_audio(dataset, sample_rate=16000, resample=True):
    """Check every file of a dataset before any work starts on it.

    Reads headers only. Fills in ``duration`` (seconds) where it is missing.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`~speechbrain_ext.dataio.manifest.load_manifest`.
    sample_rate : int
        Rate in Hz that the encoder takes.
    resample : bool
        Whether other rates are allowed (they are converted on reading).

    Raises
    ------
    InputError
        If a file is missing, unreadable or empty, a segment lies outside its
        file, or a rate differs while ``resample`` is off.
    """
    infos = {}
    for key, row in dataset.data.items():
        wav = row["wav"]
        if wav not in infos:
            if not Path(wav).is_file():
                raise InputError(
                    f"Utterance '{key}': no file {wav}; check the column wav "
                    "and --data_folder"
                )
            infos[wav] = audio_info(wav)
        info = infos[wav]
        start, stop = row.get("start", 0), row.get("stop", info.frames)
        if info.frames == 0:
            raise InputError(f"Utterance '{key}': {wav} is empty")
        if not 0 <= start < stop <= info.frames:
            raise InputError(
                f"Utterance '{key}': samples {start} to {stop} are not in "
                f"{wav}, which has {info.frames}"
            )
        if info.samplerate != sample_rate and not resample:
            raise InputError(
                f"Utterance '{key}': {wav} has {info.samplerate} Hz, expected "
                f"{sample_rate}; convert it or set --resample=True"
            )
        row["duration"] = (stop - start) / info.samplerate


def read_audio(key, wav, start=None, stop=None, sample_rate=16000):
    """Read an utterance as one channel at a given rate.

    Arguments
    ---------
    key : str
        The utterance's ID, for messages.
    wav : str
        A file.
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
        If the file cannot be decoded, is empty or has samples that are not
        finite.
    """
    start = start or 0
    frames = -1 if stop is None else stop - start
    try:
        signal, rate = audio_io.load(wav, frame_offset=start, num_frames=frames)
    except (RuntimeError, OSError) as error:
        raise InputError(f"Utterance '{key}': cannot decode {wav} ({error})")
    signal = signal.mean(dim=0)
    if signal.numel() == 0:
        raise InputError(f"Utterance '{key}': {wav} is empty")
    if not torch.isfinite(signal).all():
        raise InputError(
            f"Utterance '{key}': {wav} has samples that are NaN or infinite"
        )
    if rate != sample_rate:
        signal = torchaudio.functional.resample(signal, rate, sample_rate)
    return signal


def add_audio_pipeline(dataset, sample_rate=16000, channel=None):
    """A copy of a dataset that yields ``id`` and ``sig``.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`~speechbrain_ext.dataio.manifest.load_manifest`.
    sample_rate : int
        Rate in Hz.
    channel : callable
        ``channel(signal, key) -> signal``, such as
        :class:`speechbrain_ext.augment.channel.RandomChannel`.

    Returns
    -------
    DynamicItemDataset
        Items ``id`` and ``sig`` (torch.Tensor of shape [time]).
    """

    @sb.utils.data_pipeline.takes("id")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(key):
        """Samples of an utterance, through its channel."""
        row = dataset.data[key]
        signal = read_audio(
            key, row["wav"], row.get("start"), row.get("stop"), sample_rate
        )
        return signal if channel is None else channel(signal, key)

    return DynamicItemDataset(
        dataset.data, [audio_pipeline], output_keys=["id", "sig"]
    )
