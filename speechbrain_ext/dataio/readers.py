"""Rows of a manifest from recordings that come without one.

A folder whose sub-folders are speakers, a data folder of Kaldi, or a list of
files. Each reader gives what a manifest would hold, see
:func:`~speechbrain_ext.dataio.manifest.load_manifest`, which checks it.
"""

import functools

from speechbrain.utils.logger import get_logger
from speechbrain_ext.dataio.audio import audio_info
from speechbrain_ext.dataio.remote import is_remote, join, read_bytes
from speechbrain_ext.dataio.tar_shards import is_shards, shard_rows
from speechbrain_ext.utils.errors import InputError

logger = get_logger(__name__)

# What is taken for audio in a folder, and for a list of files.
AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
LISTS = {".txt", ".lst"}
# Our columns, and the files of a data folder of Kaldi that hold them.
KALDI = {"speaker": "utt2spk", "content": "text"}


def read_text(path):
    """Text of a file in UTF-8; a ValueError where it is something else.

    Arguments
    ---------
    path : Path or str
        The file; a str is an address.

    Returns
    -------
    str

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> _ = path.write_bytes(b"RIFF\\0")
    >>> read_text(path)
    Traceback (most recent call last):
    ...
    ValueError: it has NUL bytes, expected text in UTF-8
    """
    data = read_bytes(path) if is_remote(path) else path.read_bytes()
    text = data.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("it has NUL bytes, expected text in UTF-8")
    return text


def read_source(source, root, labelled=False):
    """Rows of recordings that come without a manifest.

    Arguments
    ---------
    source : Path
        A folder, or a list of files or shards (``.txt``, ``.lst``), a path
        per line.
    root : Path
        Where relative paths of a list or of ``wav.scp`` start from.
    labelled : bool
        Whether speakers are needed.

    Returns
    -------
    list of tuple
        Where a row comes from, for messages, and the row, a dict.

    Raises
    ------
    InputError
        If there is no audio, or something is missing, repeated or malformed.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "ann/tuesday").mkdir(parents=True)
    >>> (folder / "ann/tuesday/a.wav").touch()
    >>> [(_, row)] = read_source(folder, folder, labelled=True)
    >>> row["ID"], row["speaker"]
    ('ann/tuesday/a.wav', 'ann')
    """
    if is_remote(source) or not source.is_dir():
        return _list_rows(source, root)
    if (source / "wav.scp").is_file():
        return _kaldi_rows(source, root)
    return _folder_rows(source, labelled)


def _folder_rows(folder, labelled):
    """All audio in a folder; its sub-folders, if it is all there, speakers."""
    kinds = ", ".join(sorted(AUDIO))
    names = [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in AUDIO and path.is_file()
    ]
    # Nothing that is hidden, such as copies that a Mac makes.
    names = [n for n in names if not any(x[0] == "." for x in n.parts)]
    shards = sorted(folder.glob("[!.]*.tar"))
    if shards and not names:
        return shard_rows(shards)
    if not names:
        raise InputError(
            f"No recordings in {folder}: expected audio ({kinds}), shards "
            "(.tar), a manifest.csv or Kaldi's wav.scp"
        )
    loose = [name for name in names if len(name.parts) == 1]
    heard = {name.parts[0] for name in names}
    empty = [
        path.name
        for path in sorted(folder.glob("[!.]*"))
        if path.is_dir() and path.name not in heard
    ]
    if labelled and loose:
        raise InputError(
            f"{folder}: {len(loose)} audio files, e.g. {loose[0]}, are not in "
            "the sub-folder of a speaker: move them into one, or write a "
            "manifest.csv"
        )
    if labelled and empty:
        raise InputError(
            f"{folder}: sub-folder '{empty[0]}' has no audio ({kinds}), but "
            "each is to be a speaker: move it away, or write a manifest.csv"
        )
    if labelled:
        logger.warning(
            f"{folder} has no manifest: its {len(heard)} sub-folders are taken "
            f"for speakers, e.g. {', '.join(sorted(heard)[:3])}"
        )
    rows = []
    for name in names:
        wav = str((folder / name).absolute())
        row = {"ID": name.as_posix(), "wav": wav}
        row |= {} if loose else {"speaker": name.parts[0]}
        rows.append((wav, row))
    return rows


def _list_rows(path, root):
    """A file per line, which is its ID too; or a shard per line."""
    lines = _read_lines(path)
    if is_shards(shards := [join(root, line) for _, line in lines]):
        return shard_rows(shards)
    return [(where, {"ID": x, "wav": x}) for where, x in lines]


def _kaldi_rows(folder, root):
    """Utterances of a data folder of Kaldi, with ``segments`` where it is."""
    recordings = _read_table(folder / "wav.scp")
    for where, wav in recordings.values():
        if wav.endswith("|"):
            raise InputError(
                f"{where}: '{wav}' is a command, which is not run: write what "
                "it gives to an audio file, and name that file"
            )
    utterances = recordings
    if (folder / "segments").is_file():
        utterances = _read_table(folder / "segments")
    tables = {
        column: (folder / name, _read_table(folder / name))
        for column, name in KALDI.items()
        if (folder / name).is_file()
    }
    info = functools.cache(audio_info)
    rows = []
    for key, (where, value) in utterances.items():
        row = {"ID": key, "wav": value}
        if utterances is not recordings:
            row |= _segment(where, value, recordings, root, info)
        for column, (path, table) in tables.items():
            if key not in table:
                raise InputError(
                    f"{where}: utterance '{key}' has no {column}: there is no "
                    f"such line in {path}"
                )
            row[column] = table[key][1]
        rows.append((where, row))
    return rows


def _segment(where, value, recordings, root, info):
    """Part of a recording, in samples: its name, start and end in seconds."""
    try:
        name, start, end = value.split()[:3]
        seconds = float(start), float(end)
    except ValueError:
        raise InputError(
            f"{where}: '{value}' is not a recording, its start and its end in "
            "seconds"
        )
    if name not in recordings:
        raise InputError(f"{where}: recording '{name}' is not in wav.scp")
    wav = recordings[name][1]
    found = info(join(root, wav))
    try:
        start, stop = (round(one * found.samplerate) for one in seconds)
    except (ValueError, OverflowError):
        raise InputError(f"{where}: '{value}' has times that are not finite")
    # As Kaldi takes them: an end of -1 is that of the recording, and what is
    # beyond it by less than half a second too.
    beyond = stop - found.frames
    if seconds[1] == -1 or 0 < beyond < found.samplerate / 2:
        stop = found.frames
    return {"wav": wav, "start": start, "stop": stop}


def _read_table(path):
    """First field -> where its line is, and the rest of it."""
    table = {}
    for where, line in _read_lines(path):
        key, _, value = line.replace("\t", " ").partition(" ")
        if key in table:
            raise InputError(
                f"{where}: '{key}' occurs twice; names must be unique"
            )
        table[key] = where, value.strip()
    return table


def _read_lines(path):
    """Where each line is, and its text; none that are empty."""
    try:
        lines = enumerate(read_text(path).split("\n"), 1)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} cannot be read as text: {error}")
    return [(f"{path}, line {i}", x.strip()) for i, x in lines if x.strip()]
