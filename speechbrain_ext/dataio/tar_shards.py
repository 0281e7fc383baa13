"""Recordings in WebDataset shards: tar files of samples.

Files of a shard that share what stands before the first dot of their names are
one sample. Each becomes a row of a manifest whose ``wav`` says where in the
shard its audio lies, so that any process can read any sample, in any order.
"""

import json
import re
from pathlib import Path

from braceexpand import braceexpand

from speechbrain_ext.dataio.remote import in_threads, join, members
from speechbrain_ext.utils.errors import InputError

# What is taken for audio: formats with a header, and tensors, as SpeechBrain's
# recipes write them.
AUDIO = {"wav", "flac", "ogg", "opus", "mp3", "pth"}
TEXT = 1 << 16  # bytes; what is longer is not taken for a label or a text
OF_SOURCE = ("wav", "start", "stop")  # which tell nothing of a shard
SAMPLE = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)


def is_shards(source):
    """Whether recordings are given as shards.

    Example
    -------
    >>> is_shards("train/shard-{000..099}.tar"), is_shards(["a.tar", "b.wav"])
    (True, False)
    """
    if isinstance(source, (list, tuple)):
        return bool(source) and all(map(is_shards, source))
    # What is in a shard is a recording.
    source = str(source).lower()
    return source.endswith(".tar") and not source.startswith("tar://")


def shard_rows(source):
    """Rows of the samples of shards.

    Arguments
    ---------
    source : str, Path or list
        One or more tar files or addresses of them; braces stand for several, as
        in ``shard-{000..099}.tar``.

    Returns
    -------
    list of tuple
        Where a row comes from, for messages, and the row, a dict. Its ID is
        ``SHARD/KEY``; its columns are those of the sample's ``.json``, the
        texts of its other small files, each under its extension (``txt``,
        ``cls``, ...), and ``wav``. Where it has several files of audio, each is
        a column under its extension instead.

    Raises
    ------
    InputError
        If a shard cannot be read, or has no samples.

    Example
    -------
    >>> import io, tarfile
    >>> path = getfixture("tmp_path") / "000.tar"
    >>> with tarfile.open(path, "w") as tar:
    ...     for name, text in ("a/u1.wav", b""), ("a/u1.txt", b"how are you"):
    ...         info = tarfile.TarInfo(name)
    ...         info.size = len(text)
    ...         tar.addfile(info, io.BytesIO(text))
    >>> [(_, row)] = shard_rows(path)
    >>> row["ID"], row["txt"], row["wav"].partition("::")[0]
    ('000/a/u1', 'how are you', 'tar://a/u1.wav@512+0')
    """
    given = source if isinstance(source, (list, tuple)) else [source]
    try:
        shards = [one for path in given for one in braceexpand(str(path))]
    except ValueError as error:
        raise InputError(f"{error}: expected names such as {{000..099}}.tar")
    found = in_threads(_rows, [join(Path.cwd(), shard) for shard in shards])
    return [row for rows in found.values() for row in rows]


def _rows(shard):
    """Rows of the samples of one shard."""
    samples = {}
    for name, (offset, size), read in members(shard):
        if not (parts := SAMPLE.fullmatch(name)):
            continue
        key, extension = parts.groups()
        row, wavs = samples.setdefault(key, ({}, {}))
        kind = extension.rpartition(".")[2].lower()
        if extension in wavs:
            raise InputError(
                f"{shard}: {name} occurs twice; names must be unique"
            )
        if kind in AUDIO:
            wavs[extension] = f"tar://{name}@{offset}+{size}::{shard}"
        elif kind == "json":
            row |= _json(read(), f"{shard}, {name}")
        elif size <= TEXT:
            try:
                row[extension] = read().decode("utf-8").strip()
            except UnicodeDecodeError:
                pass  # an array or a picture
    if not any(wavs for _, wavs in samples.values()):
        raise InputError(
            f"{shard} has no samples with audio: expected files such as "
            f"KEY.flac and KEY.json ({', '.join(sorted(AUDIO))})"
        )
    return [
        (
            f"{shard}, sample {key}",
            row
            | ({"wav": [*wavs.values()][0]} if len(wavs) == 1 else wavs)
            | {"ID": f"{Path(shard).stem}/{key}"},
        )
        for key, (row, wavs) in samples.items()
    ]


def _json(text, where):
    """Columns of a sample; where it was cut out of what is none of them."""
    try:
        found = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: expected {{column: value, ...}} ({error})")
    return {k: v for k, v in found.items() if k not in OF_SOURCE}
