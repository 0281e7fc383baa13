"""Digests of recordings, noted so that a corpus is read once."""

import contextlib
import os
from pathlib import Path

from filelock import FileLock

from speechbrain_ext.dataio.columns import columns_of
from speechbrain_ext.dataio.remote import (
    in_threads,
    is_remote,
    origin,
    remote_digest,
)
from speechbrain_ext.utils.files import file_digest

AT_A_TIME = 4096  # files, whose digests are noted together


def audio_digests(dataset, memo=None):
    """Digest of the audio content of every utterance.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`speechbrain_ext.dataio.manifest.load_manifest`.
    memo : str or Path
        File in which digests are remembered by path, size and time of
        change, so that a large corpus is read only once. Files elsewhere
        are not read, see :func:`~speechbrain_ext.dataio.remote.remote_digest`.

    Returns
    -------
    list of str
        In the order of the dataset; a segment's start and stop count.
    """
    data = columns_of(dataset)
    # Of a shard the digest is that of all, and which part of it.
    origins = [origin(wav) for wav in data.values_of("wav")]
    known = dict.fromkeys((wav for wav, _ in origins), "")
    elsewhere = in_threads(remote_digest, filter(is_remote, known))
    if memo is not None:
        _recall(memo, known)
    fresh = []
    for wav, found in known.items():
        if wav in elsewhere:
            continue
        stat = os.stat(wav)
        stamp = f"{stat.st_size}\t{stat.st_mtime_ns}\t"
        if found.startswith(stamp):
            known[wav] = found.removeprefix(stamp)
            continue
        known[wav] = file_digest(wav)
        fresh.append(f"{stamp}{known[wav]}\t{wav}\n")
        if len(fresh) == AT_A_TIME:
            _note(memo, fresh)
    _note(memo, fresh)
    segments = (data.values_of(n, default="") for n in ("start", "stop"))
    known |= elsewhere
    return [
        f"{known[wav]}{part}{start}:{stop}"
        for (wav, part), start, stop in zip(origins, *segments)
    ]


def _recall(memo, known):
    """Read of some files their size, time of change and digest.

    A line of what a killed run left, or of anything else, is passed over.
    """
    with contextlib.suppress(OSError), open(memo, "rb") as file:
        for line in file:
            line = line.decode("utf-8", "surrogateescape").rstrip("\n")
            *found, wav = line.split("\t", 3)
            if wav in known and len(found) == 3:
                known[wav] = "\t".join(found)


def _note(memo, lines):
    """Add lines to a file, in one piece, and forget them."""
    # A finished cache can be read where nothing can be written.
    with contextlib.suppress(OSError):
        if memo is not None and lines:
            Path(memo).parent.mkdir(parents=True, exist_ok=True)
            text = "".join(["\n", *lines]).encode("utf-8", "surrogateescape")
            with FileLock(f"{memo}.lock"), open(memo, "ab") as file:
                file.write(text)
    lines.clear()
