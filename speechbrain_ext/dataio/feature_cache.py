"""Pooled features of a data set: computed once, kept as one array.

Frame-level features of all layers take about a hundred times the room of
their means over time, so the encoder pools first and the cache keeps one
vector per utterance and layer.

A cache is a folder: ``index.json`` says what it holds, with a digest in place
of the IDs and contents of all utterances (format 3; before, they were listed,
and read at each look); ``features.npy``, or such a file for each part;
``sums.npy``, a checksum of each row, 0 where it is not made yet; and, for other
programs, ``ids.jsonl``, the ID of each row.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import math
import os
import shutil
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.logger import get_logger
from speechbrain_ext.dataio.audio import AudioDataset, audio_info, check_audio
from speechbrain_ext.dataio.columns import Columns, columns_of, set_values
from speechbrain_ext.dataio.digests import audio_digests
from speechbrain_ext.dataio.pooled_features import PooledFeatures
from speechbrain_ext.lobes.pooled_encoder import (
    PRECISIONS,
    encoding_in,
    similar_rows,
)
from speechbrain_ext.utils.errors import InputError, explain
from speechbrain_ext.utils.files import digest, sync, write_json, write_lines
from speechbrain_ext.utils.options import check_options
from speechbrain_ext.utils.shards import SHARD, own_cores
from speechbrain_ext.utils.windows import WHOLE, windows

logger = get_logger(__name__)

# Raised when a change of this module makes older caches wrong.
CACHE_FORMAT = 3
AT_A_TIME = 4096  # rows, whose digests make one together
FLUSH = 0.5  # seconds, after which what was encoded goes to the disk


def in_windows(dataset):
    """Long utterances of a dataset in windows.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Checked by :func:`~speechbrain_ext.dataio.audio.check_audio`.

    Returns
    -------
    cut : DynamicItemDataset
        A row for each window, and for each utterance that is encoded whole.
    spans : list of tuple
        Of each row the utterance, and its begin and end in that in seconds.
    """
    data = columns_of(dataset)
    durations = data.values_of("duration")
    if max(durations) <= WHOLE:
        spans = list(zip(data, itertools.repeat(0.0), durations))
        return DynamicItemDataset(data), spans
    firsts = data.values_of("start", default=0)
    # Of each row of the result its ID, and where it comes from.
    ids, rows, spans = [], [], []
    changed = {"start": {}, "stop": {}, "duration": {}}
    for row, (key, duration) in enumerate(zip(data, durations)):
        if duration <= WHOLE:
            ids.append(key)
            rows.append(row)
            spans.append((key, 0.0, duration))
            continue
        rate = audio_info(data[key]["wav"]).samplerate
        for start, stop in windows(round(duration * rate), rate):
            own = f"{key}\t{start}-{stop}"
            ids.append(own)
            rows.append(row)
            spans.append((key, start / rate, stop / rate))
            changed["start"][own] = firsts[row] + start
            changed["stop"][own] = firsts[row] + stop
            changed["duration"][own] = (stop - start) / rate
    cut = Columns(ids, {n: one[rows] for n, one in data.columns.items()})
    for name, values in changed.items():
        set_values(cut, name, values)
    return DynamicItemDataset(cut), spans


def _readers(utterances):
    """Processes that read, where no number is given.

    None on few cores, which the encoder takes itself, nor for utterances that
    are read before a process is started.
    """
    cores = own_cores()
    return min(cores // 2, 4) if cores >= 4 and utterances >= 2000 else 0


def _row_sum(row):
    """A checksum of one row of features, never 0: that means not there."""
    return zlib.crc32(row) or 1


def _files(folder, part, parts):
    """Features and checksums of one part of a cache."""
    name = "" if parts == 1 else f"-{part}-of-{parts}"
    return folder / f"features{name}.npy", folder / f"sums{name}.npy"


def _count_parts(folder, spec):
    """Parts of a cache; None if it is another or its index is damaged."""
    try:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        parts = index.pop("parts", 1)
    except PermissionError:  # whole perhaps, but not for this user
        raise
    except Exception:  # what is damaged raises many kinds
        return None
    valid = type(parts) is int and parts > 0
    return parts if valid and index == spec else None


def _part_there(folder, spec, part, parts):
    """Which rows of a part are what was written; None if it is damaged."""
    features, sums = _files(folder, part, parts)
    try:
        array = np.load(features, mmap_mode="r")
        sums = np.load(sums, mmap_mode="r")
    except PermissionError:
        raise
    except Exception:
        return None
    count, *shape = spec["shape"]
    rows = len(range(part, count, parts))
    if sums.shape != (rows,) or sums.dtype != "uint32":
        return None
    if array.shape != (rows, *shape) or array.dtype != spec["dtype"]:
        return None
    known = sums != 0
    array = np.ascontiguousarray(array)  # rows of a memmap itself take long
    found = (_row_sum(array[row]) for row in np.flatnonzero(known))
    found = np.fromiter(found, np.uint32, np.sum(known))
    there = known.copy()
    there[known] = found == sums[known]
    return there


def _rows_there(folder, spec):
    """Which rows of a cache are what was written; None if it is damaged."""
    parts = _count_parts(folder, spec)
    if parts is None:
        return None
    rows = np.zeros(spec["shape"][0], dtype=bool)
    for part in range(parts):
        there = _part_there(folder, spec, part, parts)
        rows[part::parts] = False if there is None else there
    return rows


def _is_whole(folder, spec):
    """Whether a cache is finished and undamaged."""
    there = _rows_there(folder, spec) if folder.is_dir() else None
    return there is not None and there.all()


def _cache_of(
    dataset, encoder, cache_folder, name, channel, dtype, layers, precision
):
    """Folder of a cache, what must be in it, and the dataset in windows."""
    if not hasattr(dataset, "data"):
        raise InputError(
            f"Features are of a dataset, got {dataset!r}: give what "
            "load_manifest makes of a manifest"
        )
    data = columns_of(dataset)
    if None in data.values_of("duration", default=None):
        check_audio(dataset, encoder.sample_rate)
    dataset, spans = in_windows(dataset)
    identity = dict(encoder.identity)
    kept = {} if layers is None else {"layers": layers}
    kept |= {} if precision == "fp32" else {"precision": precision}
    n_layers = encoder.n_layers if layers is None else len(layers)
    spec = kept | {
        "format": CACHE_FORMAT,
        # Of encoders without a choice: "mean".
        "pooling": identity.pop("pooling", "mean"),
        "encoder": identity,
        "channel": None if channel is None else channel.identity,
        "dtype": dtype,
        "shape": [len(dataset), n_layers, encoder.dim],
        "utterances": _utterances_digest(
            dataset.data_ids,
            audio_digests(dataset, Path(cache_folder, "digests.tsv")),
        ),
    }
    # A round trip, so that what is compared is what a file can hold.
    spec = json.loads(json.dumps(spec))
    folder = Path(cache_folder, f"{name}-{digest(spec)[:12]}")
    return folder, spec, dataset, [utterance for utterance, *_ in spans]


def _utterances_digest(ids, digests):
    """Digest of the IDs and contents of all rows, in order."""
    content = hashlib.blake2b(digest_size=16)
    for first in range(0, len(ids), AT_A_TIME):
        some = slice(first, first + AT_A_TIME)
        content.update(json.dumps([ids[some], digests[some]]).encode())
    return content.hexdigest()


def missing_hours(
    dataset,
    encoder,
    cache_folder,
    name="features",
    channel=None,
    dtype="float32",
    layers=None,
    precision="fp32",
    **options,
):
    """Hours of audio that :func:`extract_features` would encode.

    Arguments
    ---------
    dataset, encoder, cache_folder, name, channel, dtype, layers, precision
        As of that.
    **options : object
        Its other arguments, which change nothing here.

    Returns
    -------
    float
    """
    folder, spec, dataset, _ = _cache_of(
        *(dataset, encoder, cache_folder, name, channel),
        *(dtype, layers, precision),
    )
    if folder.is_dir():  # not read: that would take as long as to use it
        return 0.0
    durations = np.array(dataset.data.values_of("duration"))
    there = _rows_there(_partial(folder), spec)
    return float(durations[~there if there is not None else ...].sum() / 3600)


def _partial(folder):
    """Where a cache is until it is finished."""
    return folder.with_name(f"{folder.name}.partial")


def extract_features(
    dataset,
    encoder,
    cache_folder,
    name="features",
    channel=None,
    dtype="float32",
    layers=None,
    precision="fp32",
    device="cpu",
    batch_size=32,
    batch_seconds=160.0,
    num_workers=None,
    progress=True,
    unreadable=None,
    shard=None,
):
    """Pooled features of every utterance of a dataset.

    The result is kept in ``<cache_folder>/<name>-<key>/``; the key is a digest
    of the encoder (its parameters, revision or weights), the pooling, the
    channel, the type, and the IDs and audio content of the utterances, so no
    change of any of them can find features that are out of date (a new
    version of a library that computes otherwise can: delete the folder then).
    An interrupted run goes on where it stopped; of several runs at the same
    time one computes and the others wait.

    Several calls that share the folder can divide the work, each with a shard
    of its own. A call without one then makes what is left, waits for what is
    being made, and gives all.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`speechbrain_ext.dataio.manifest.load_manifest`; checked by
        ``check_audio`` where it has no durations yet.
    encoder : speechbrain_ext.lobes.pooled_encoder.PooledEncoder
        The frozen encoder.
    cache_folder : str or Path
        Folder of all caches.
    name : str
        Readable first part of the folder's name.
    channel : callable
        ``channel(signal, key) -> signal`` with a JSON-able ``identity``, such
        as :class:`speechbrain_ext.augment.channel.RandomChannel`.
    dtype : str
        ``"float32"`` or ``"float16"``.
    layers : list of int
        Layers that are kept. Default: all.
    precision : str
        That the encoder runs in, see
        :func:`~speechbrain_ext.lobes.pooled_encoder.encoding_in`.
    device : str
        Where the encoder runs.
    batch_size : int
        Utterances in a batch, at most.
    batch_seconds : float
        Seconds of audio in a batch with its padding, at most.
    num_workers : int
        Processes that read audio. Default: up to four, of half of the cores of
        this process, where it has four or more and 2,000 utterances.
    progress : bool
        Show a progress bar.
    unreadable : dict
        Filled with utterances that have no features, or a window that has
        none, ID -> why; a later call tries them again. Default: the first ends
        the call.
    shard : tuple of int
        (index, count): encode utterances index, index + count, ... alone. A
        cache that was begun with another count keeps that number of parts, and
        shard i makes each of them whose number is i after division by count.

    Returns
    -------
    PooledFeatures
        Memory-mapped, [utterances, layers, dim], in the dataset's order; None
        for a shard.

    Raises
    ------
    InputError
        If audio cannot be read or is not finite, or features are not finite.
    OSError
        If the disk is too small, before anything is encoded; what else the
        system refuses.
    """
    if dtype not in ("float32", "float16"):
        raise InputError(
            f"Unknown dtype '{dtype}' of features: expected float32 or float16"
        )
    check_options({"shard": shard}, {"shard": SHARD})
    if precision not in PRECISIONS:
        raise InputError(
            f"Unknown precision '{precision}': expected {', '.join(PRECISIONS)}"
        )
    Path(cache_folder).mkdir(parents=True, exist_ok=True)
    folder, spec, dataset, utterances = _cache_of(
        *(dataset, encoder, cache_folder, name, channel),
        *(dtype, layers, precision),
    )
    durations = dataset.data.values_of("duration")
    if not _is_whole(folder, spec):
        audio = AudioDataset(
            dataset,
            encoder.sample_rate,
            channel,
            utterances,
            tolerant=unreadable is not None,
        )
        # Longest first shows at once whether the memory suffices.
        batches = functools.partial(
            similar_rows, most=batch_seconds, at_most=batch_size
        )
        loader = functools.partial(
            torch.utils.data.DataLoader,
            audio,
            collate_fn=PaddedBatch,
            num_workers=(
                _readers(len(durations)) if num_workers is None else num_workers
            ),
            pin_memory=torch.device(device).type == "cuda",
        )
        encode = functools.partial(
            *(_encode, encoder.to(device), precision),
            *(device, dtype, layers, unreadable),
        )
        index, count = shard or (0, 1)
        with FileLock(f"{folder}.lock"):
            parts = _begin(folder, spec, count, dataset.data_ids)
        work = durations, batches, loader, encode, progress
        for part in range(index, parts, count):
            with _lock(folder, part, parts):
                # Another call may have finished it in the meantime.
                if not folder.is_dir():
                    _compute(_partial(folder), spec, part, parts, *work)
        if not shard:
            _finish(folder, parts)
    if shard:
        return None
    parts = _count_parts(folder, spec)
    files = [_files(folder, part, parts) for part in range(parts)]
    arrays = [np.load(features, mmap_mode="r") for features, _ in files]
    for part, (_, sums) in enumerate(files):
        _tell_left_out(utterances[part::parts], np.load(sums), unreadable)
    return PooledFeatures(arrays, utterances, durations)


def _tell_left_out(utterances, sums, unreadable):
    """Tell what another call could not read: its features are zeros."""
    for row in np.flatnonzero(sums == 0):
        problem = (
            f"Utterance '{utterances[row]}': a call at the same time could not "
            "read it; call again"
        )
        if unreadable is None:
            raise InputError(problem)
        unreadable.setdefault(utterances[row], problem)


def _encode(encoder, precision, device, dtype, layers, unreadable, batch):
    """Features of a batch as they are stored, and which of them are any."""
    wavs, lens = batch.sig
    with encoding_in(precision):
        # Lengths are counted on the host.
        features = encoder(wavs.to(device, non_blocking=True), lens)
    features = features[:, slice(None) if layers is None else layers]
    features = features.cpu().numpy().astype(dtype)
    good = np.isfinite(features).all(axis=(1, 2))
    for i, (key, problem) in enumerate(zip(batch.id, batch.problem)):
        if problem is None and good[i]:
            continue
        good[i] = False
        problem = problem or (
            f"Utterance '{key}': its features are not finite in {dtype}; "
            "check the audio, or choose --extraction='{dtype: float32}'"
        )
        if unreadable is None:
            raise InputError(problem)
        unreadable[key] = problem
    return features, good


def _lock(folder, part, parts):
    """Of two calls for one part of a cache the second waits."""
    name = "" if parts == 1 else f"-{part}-of-{parts}"
    return FileLock(f"{folder}{name}.lock")


def _begin(folder, spec, parts, ids):
    """Have an unfinished cache; how many parts it has."""
    partial = _partial(folder)
    if folder.is_dir():
        if _is_whole(folder, spec):  # finished in the meantime
            return _count_parts(folder, spec)
        shutil.rmtree(partial, ignore_errors=True)
        folder.rename(partial)
    if known := _count_parts(partial, spec):
        return known
    if partial.is_dir():
        logger.warning(f"{partial} is damaged, and made again")
        shutil.rmtree(partial)
    partial.mkdir()
    write_lines(partial / "ids.jsonl", map(json.dumps, ids))
    more = {"parts": parts} if parts > 1 else {}
    write_json(partial / "index.json", spec | more)
    return parts


def _finish(folder, parts):
    """Give a cache its name, when no call is at work on a part of it."""
    with contextlib.ExitStack() as stack:
        for part in range(parts):
            stack.enter_context(_lock(folder, part, parts))
        if parts > 1:  # nor does one begin, which looks at both names
            stack.enter_context(FileLock(f"{folder}.lock"))
        if not folder.is_dir():
            sync(_partial(folder))
            _partial(folder).rename(folder)
            sync(folder.parent)


def _compute(
    folder, spec, part, parts, durations, batches, loader, encode, progress
):
    """Encode what is missing of a part of a cache."""
    array, sums = _open_part(folder, spec, part, parts)
    missing = np.flatnonzero(sums == 0)
    if 0 < len(missing) < len(sums):
        logger.info(f"Resuming {folder}: {len(missing)} utterances are left")
    durations = durations[part::parts]
    batches = [
        missing[batch].tolist()
        for batch in batches([durations[i] for i in missing])
    ]
    # Numbers of the utterances in the whole data set
    wanted = [[part + parts * row for row in rows] for rows in batches]
    begin = flushed = time.monotonic()
    seconds, made = 0.0, {}
    with tqdm(
        total=len(missing),
        desc=folder.name.rpartition("-")[0],
        unit="utt",
        disable=not progress,
        dynamic_ncols=True,
    ) as bar:
        try:
            for rows, batch in zip(batches, loader(batch_sampler=wanted)):
                array[rows], good = encode(batch)
                made |= {
                    row: _row_sum(array[row]) * ok
                    for row, ok in zip(rows, good)
                }
                if time.monotonic() - flushed > FLUSH:
                    _flush(array, sums, made)
                    flushed = time.monotonic()
                seconds += sum(durations[i] for i in rows)
                rate = seconds / max(time.monotonic() - begin, 1e-9)
                bar.update(len(rows))
                bar.set_postfix_str(f"{rate:.0f} x real time")
        except InputError as error:
            # That of a process that reads audio comes with its traceback.
            raise InputError(explain(error))
        finally:
            _flush(array, sums, made)
    if seconds:
        logger.info(
            f"{len(missing)} utterances, {seconds / 3600:.2f} h, encoded at "
            f"{rate:.0f} x real time into {folder}"
        )


def _flush(array, sums, made):
    """Have features on the disk, then the checksums that say so."""
    array.flush()
    sums[list(made)] = list(made.values())
    sums.flush()
    made.clear()


def _open_part(folder, spec, part, parts):
    """Array and checksums of a part, made where there is none."""
    files = _files(folder, part, parts)
    there = _part_there(folder, spec, part, parts)
    if there is not None:
        array, sums = (np.load(file, mmap_mode="r+") for file in files)
        if damaged := np.sum((sums != 0) & ~there):
            logger.warning(
                f"{folder}: {damaged} of {len(sums)} rows are damaged, and "
                "made again"
            )
        sums[~there] = 0
        return array, sums
    if any(file.exists() for file in files):
        logger.warning(f"{files[0]} is damaged, and made again")
    make = np.lib.format.open_memmap
    count, *shape = spec["shape"]
    shape = (len(range(part, count, parts)), *shape)
    dtype, free = np.dtype(spec["dtype"]), shutil.disk_usage(folder).free
    try:
        array = make(files[0], "w+", dtype, shape)
        _reserve(files[0])
        sums = make(files[1], "w+", np.uint32, shape[:1])
        _reserve(files[1])
    except OSError as error:
        for file in files:
            file.unlink(missing_ok=True)
        needed = dtype.itemsize * math.prod(shape)
        room = f"{needed / 1e9:.3g} GB needed, {free / 1e9:.3g} free"
        said = f"{error.strerror} ({room})"
        raise OSError(error.errno, said, str(folder.parent))
    return array, sums


def _reserve(path):
    """Have the room of a file on the disk: its array would die without."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            # Of others, some file systems have no such call.
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
