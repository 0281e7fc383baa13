"""Files elsewhere than on a disk: addresses that fsspec opens, parts of tars.

An address has ``://`` in it, such as ``s3://bucket/a.flac``,
``simplecache::http://host/a.wav`` or ``tar://a.flac::s3://bucket/000.tar``.
``tar://a.flac@1536+2048::000.tar`` also says which bytes of the tar file those
are, so that no process has to look for them.
"""

import contextlib
import hashlib
import io
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import fsspec
import soundfile
import torch

from speechbrain.utils.logger import get_logger
from speechbrain_ext.utils.errors import InputError, Unreachable
from speechbrain_ext.utils.files import digest

logger = get_logger(__name__)

MEMBER = re.compile(r"tar://(.+?)(?:@(\d+)\+(\d+))?::(.+)", re.DOTALL)
# What file systems call an entry that changes when a file does.
MARKS = ("ETag", "etag", "md5", "md5Hash", "Content-MD5", "Digest", "blob_id")
MARKS += ("LastModified", "Last-Modified", "updated", "mtime", "created")
THREADS = 16  # that wait for servers
BLOCK = 1 << 18  # bytes that are asked for where a part of a file is wanted
# Tensors in shards of SpeechBrain's recipes have no header that tells it.
TENSOR_RATE = 16000


def is_remote(path):
    """Whether a path is an address that fsspec opens.

    Example
    -------
    >>> is_remote("s3://bucket/a.wav"), is_remote("bucket/a.wav")
    (True, False)
    """
    return "://" in str(path)


def tidy(path):
    """A path as a text; of one on a disk without ``./`` and the like.

    Example
    -------
    >>> tidy("./x//a.wav"), tidy("s3://x//a.wav")
    ('x/a.wav', 's3://x//a.wav')
    """
    return str(path) if is_remote(path) else str(Path(path))


def join(root, path):
    """A path from some folder on; any of the two may be an address.

    Example
    -------
    >>> join("s3://bucket/x/", "a.wav"), join("/x", "s3://bucket/a.wav")
    ('s3://bucket/x/a.wav', 's3://bucket/a.wav')
    """
    if is_remote(path):
        return str(path)
    if is_remote(root):  # where // is a folder without a name
        return f"{str(root).removesuffix('/')}/{path}"
    return str(Path(root) / path)


def file_system(path):
    """The file system of an address, and the path in it.

    Arguments
    ---------
    path : str
        With ``://``.

    Returns
    -------
    fs : fsspec.AbstractFileSystem
    path : str

    Raises
    ------
    Unreachable
        If there is no such file system, or its package is missing.

    Example
    -------
    >>> file_system("nfs5://a.wav")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.Unreachable: nfs5://a.wav: Protocol not ...
    """
    try:
        return fsspec.core.url_to_fs(str(path))
    # An unknown protocol, a missing package, or none of its credentials.
    except Exception as error:
        raise Unreachable(f"{path}: {_reason(error)}")


def _reason(error):
    """The first line of what an error says."""
    return (str(error).strip() or repr(error)).splitlines()[0]


@contextlib.contextmanager
def _reading(path):
    """Errors of file systems in one line: each has kinds of its own."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # HTTP's file system may take a server that fails for a missing file.
        missing = isinstance(error, FileNotFoundError)
        fault = error.__cause__ if missing else error
        if _of_server(fault):
            raise Unreachable(
                f"{path} cannot be reached ({_reason(fault)}): call again, and "
                "it goes on"
            )
        if missing:
            raise InputError(f"There is no file {path}")
        raise InputError(f"{path} cannot be read ({_reason(error)})")


def _of_server(error):
    """Whether it is of a server or a line, not of one file."""
    of_file = PermissionError, IsADirectoryError, FileNotFoundError
    if isinstance(error, of_file):
        return False
    # Drivers have kinds of their own, with that in their names.
    kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
    status = getattr(error, "status", None)  # of HTTP
    # 429: it was asked too much, and would refuse all others too.
    failed = isinstance(status, int) and (status >= 500 or status == 429)
    return failed or bool(re.search("OSError|Connection|Timeout", kinds))


def _find(path):
    """The file that a path is of, and where it begins and ends in that."""
    found = MEMBER.fullmatch(path)
    if not found:
        return path, None, None
    name, *span, shard = found.groups()
    if span[0] is None:
        if name not in (known := _members(shard)):
            raise InputError(f"There is no {name} in {shard}")
        span = known[name]
    start, size = map(int, span)
    return shard, start, start + size


@lru_cache(64)
def _members(shard):
    """Name -> (offset, size) of what is in a tar file."""
    return {name: span for name, span, _ in members(shard)}


def members(shard):
    """What is in a tar file, in its order.

    Arguments
    ---------
    shard : str
        A path, or an address.

    Yields
    ------
    name : str
    span : tuple of int
        Offset and size of its content.
    read : callable
        Gives its content, before the next one is asked for.

    Raises
    ------
    InputError
        If it is not a tar file, or a compressed one.

    Example
    -------
    >>> path = getfixture("tmp_path") / "000.tar"
    >>> with tarfile.open(path, "w") as tar:
    ...     tar.addfile(tarfile.TarInfo("a.wav"))
    >>> [(name, span) for name, span, _ in members(str(path))]
    [('a.wav', (512, 0))]
    """
    with _reading(shard), contextlib.ExitStack() as stack:
        file = stack.enter_context(_open(shard))
        try:
            # Without "r:" it would decompress, which has no offsets.
            tar = stack.enter_context(tarfile.open(fileobj=file, mode="r:"))
            for member in tar:
                if member.isreg():
                    span = member.offset_data, member.size
                    read = partial(_content, shard, tar, member)
                    yield member.name, span, read
                tar.members.clear()  # it would keep all of them
            file.seek(tar.offset)
            if not file.read(1):
                logger.warning(f"{shard} has no end mark: it may be cut off")
        except tarfile.TarError as error:
            raise InputError(
                f"{shard} is not a tar file, or it is cut off or compressed "
                f"({_reason(error)})"
            )


def _content(shard, tar, member):
    """Content of a file in an open tar file."""
    with _reading(shard):
        return tar.extractfile(member).read()


def _open(path, block_size=None):
    """A file on a disk, or elsewhere, of which it asks for blocks."""
    if not is_remote(path):
        return open(path, "rb")
    fs, name = file_system(path)
    return fs.open(name, "rb", block_size=block_size)


def read_bytes(path):
    """Content of a file that an address names.

    Arguments
    ---------
    path : str
        With ``://``.

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        If it cannot be read; Unreachable if where it lies cannot be reached.

    Example
    -------
    >>> fsspec.filesystem("memory").pipe("/a.txt", b"abc")
    >>> read_bytes("memory://a.txt")
    b'abc'
    >>> read_bytes("memory://b.txt")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: There is no file memory://b.txt
    """
    with _reading(path):
        where, start, end = _find(path)
        if not is_remote(where):
            with open(where, "rb") as file:
                file.seek(start)
                data = file.read(end - start)
        else:
            fs, name = file_system(where)
            data = fs.cat_file(name, start=start, end=end)
        if start is not None and len(data) > end - start:
            raise InputError(
                f"{path}: the server gives no parts of files: write "
                f"simplecache::{where}, which copies the shard here"
            )
        if start is not None and len(data) < end - start:
            raise InputError(f"{path} is cut off, or the shard has changed")
    return data


class _Part:
    """Part of an open file, whose errors wait in ``error``.

    soundfile, which calls it, would print and forget them.
    """

    def __init__(self, file, start, end):
        self.file, self.start, self.end, self.error = file, start, end, None

    def seek(self, offset, whence=0):
        """As of a file that has this part alone."""
        base = (self.start, self.file.tell(), self.end)[whence]
        self.file.seek(base + offset)
        return self.tell()

    def tell(self):
        """How far into the part it is."""
        return self.file.tell() - self.start

    def readinto(self, buffer):
        """How many bytes were read; 0 after an error, too."""
        rest = max(self.end - self.file.tell(), 0)
        try:
            return self.file.readinto(memoryview(buffer)[:rest])
        except Exception as error:
            self.error = error
            return 0


def with_audio(path, use, part=False):
    """Give the audio that an address names to a function of a file.

    Arguments
    ---------
    path : str
        With ``://``. A tensor of torch, [channels, time], as SpeechBrain's
        recipes put into shards, is taken for audio of 16 kHz.
    use : callable
        Takes an open file.
    part : bool
        Whether it reads little of it, so that only this is asked for.

    Returns
    -------
    object
        What ``use`` returns.

    Raises
    ------
    InputError
        If the file cannot be read.

    Example
    -------
    >>> with fsspec.open("memory://a.wav", "wb") as file:
    ...     soundfile.write(file, [0.0] * 800, 16000, format="WAV")
    >>> with_audio("memory://a.wav", soundfile.info, part=True).frames
    800
    """
    if re.search(r"\.pth(@\d+\+\d+)?$", path.partition("::")[0]):
        return use(_tensor_as_wav(path))
    if part and (piece := _open_part(path)):
        with piece.file:
            try:
                made = use(piece)
            except RuntimeError:
                if piece.error is None:
                    raise
            else:
                if piece.error is None:
                    return made
    return use(io.BytesIO(read_bytes(path)))


def _open_part(path):
    """A file to seek in; None where that fails: what reads all tells why."""
    where, start, end = _find(path)
    try:
        file = _open(where, BLOCK)
        if end is None:
            start, end = 0, file.seek(0, 2)
        file.seek(start)
    except Exception:
        return None
    return _Part(file, start, end)


def _tensor_as_wav(path):
    """A tensor that was saved by torch, as an open WAV file."""
    file, data = io.BytesIO(), io.BytesIO(read_bytes(path))
    try:
        wave = torch.load(data, weights_only=True).float()
        wave = wave.reshape(-1, wave.shape[-1]).T.numpy()
        soundfile.write(file, wave, TENSOR_RATE, "FLOAT", format="WAV")
    # What damaged files raise depends on where the damage is.
    except Exception as error:
        raise InputError(f"{path} is not a tensor of audio ({_reason(error)})")
    file.seek(0)
    return file


def origin(path):
    """The file that has the bytes of a path, and which of them.

    Example
    -------
    >>> origin("tar://a.wav@512+90::s3://bucket/000.tar")
    ('s3://bucket/000.tar', 'tar://a.wav@512+90')
    >>> origin("a.wav")
    ('a.wav', '')
    """
    part, _, where = (
        path.rpartition("::") if is_remote(path) else ("", "", path)
    )
    return where, part


def remote_digest(path):
    """What changes when a file elsewhere does, without reading it if possible.

    Arguments
    ---------
    path : str
        With ``://``.

    Returns
    -------
    str
        Digest of its address, its size and the checksum or time that its file
        system knows; of its content where that knows neither.

    Example
    -------
    >>> memory = fsspec.filesystem("memory")
    >>> memory.pipe("/b.txt", b"abc")
    >>> before = remote_digest("memory://b.txt")
    >>> memory.pipe("/b.txt", b"abcd")
    >>> before == remote_digest("memory://b.txt")
    False
    """
    with _reading(path):
        fs, name = file_system(path)
        info = fs.info(name)
    marks = {mark: info[mark] for mark in MARKS if info.get(mark)}
    if marks:
        # Files that were unpacked together may share all but the address.
        return digest([str(path), info["size"], marks])
    return hashlib.blake2b(read_bytes(path), digest_size=16).hexdigest()


def is_elsewhere(path):
    """Whether the bytes of a path are not on this machine.

    Example
    -------
    >>> is_elsewhere("tar://a@0+1::s3://b.tar"), is_elsewhere("tar://a::b.tar")
    (True, False)
    """
    # A file in memory is one object, in which threads cannot seek at a time.
    where = origin(path)[0]
    return is_remote(where) and not where.startswith("memory://")


def in_threads(function, paths):
    """Path -> what a function says of it; many at a time, as they wait.

    Example
    -------
    >>> in_threads(len, ["a", "bc", "a"])
    {'a': 1, 'bc': 2}
    """
    paths = list(dict.fromkeys(paths))
    if not paths:
        return {}
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(paths, pool.map(function, paths)))
