"""Audio, manifests and shards that are on no disk: memory, a server."""

import contextlib
import functools
import http.server
import io
import os
import sys
import threading

import fsspec
import numpy as np
import pytest
import soundfile
import torch
from conftest import voiced

from speechbrain_ext.dataio import remote
from speechbrain_ext.dataio.audio import check_audio, read_audio
from speechbrain_ext.dataio.digests import audio_digests
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.manifest import find_recordings, load_manifest
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.utils.errors import InputError, Unreachable

COUNT = 6


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; has a bad day after some files, if told so."""

    def do_GET(self):
        self.server.left -= 1
        if self.server.left < 0:
            self.close_connection = True
            if self.server.ill == "cut off":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.wfile.write(b"RIFF")
            elif type(self.server.ill) is int:
                self.send_error(self.server.ill)
            return
        super().do_GET()

    def do_HEAD(self):
        if self.server.left < 0:
            self.send_error(self.server.ill)
            return
        super().do_HEAD()

    def log_message(self, *_):
        """Nothing on the screen."""


@pytest.fixture
def corpus(tmp_path):
    """Clips of two lengths, and their manifest with relative paths."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = ["ID,wav,speaker"]
    for n in range(COUNT):
        wave = voiced(n % 3, n, 0, 0.5 + 0.2 * (n % 2))
        soundfile.write(folder / f"{n}.flac", wave, 16000)
        lines.append(f"u{n},{n}.flac,s{n % 3}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


@contextlib.contextmanager
def serving(folder):
    """A server of a folder."""
    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.left, server.ill = 10**9, None
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server(corpus):
    pytest.importorskip("aiohttp")
    with serving(corpus) as server:
        yield server


@pytest.fixture
def memory(corpus):
    """The same files in memory: the address of their folder."""
    system = fsspec.filesystem("memory")
    system.put(str(corpus), "/corpus", recursive=True)
    yield "memory://corpus"
    system.rm("/corpus", recursive=True)


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("log_mel")


def features(dataset, encoder, folder, **options):
    """Of a dataset, as an array."""
    options = {"progress": False, **options}
    return extract_features(dataset, encoder, folder, **options).array


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_those_of_local_files(
    workers, corpus, server, memory, encoder, tmp_path
):
    want = features(load_manifest(corpus), encoder, tmp_path / "local")
    roots = memory, server.url, f"simplecache::{memory}"
    for n, root in enumerate(roots):
        dataset = load_manifest(f"{root}/manifest.csv", factors=["speaker"])
        assert dataset.data["u1"]["wav"] == f"{root}/1.flac"
        cache = tmp_path / f"{workers}{n}"
        found = features(dataset, encoder, cache, num_workers=workers)
        assert np.array_equal(found, want)
    # A local manifest of addresses, and a list of them
    (tmp_path / "list.txt").write_text(f"{memory}/0.flac\n{corpus}/1.flac\n")
    wavs = [
        row["wav"]
        for row in find_recordings(tmp_path / "list.txt").data.values()
    ]
    assert wavs == [f"{memory}/0.flac", f"{corpus}/1.flac"]
    assert list(find_recordings(wavs).data) == wavs


def test_parts_are_asked_for(corpus, server, memory):
    """Segments are those of the local file, with ranges and without."""
    want = read_audio("u", str(corpus / "1.flac"), 3000, 5000)
    for root in (memory, server.url):  # the second one knows no ranges
        wav = f"{root}/1.flac"
        assert torch.equal(read_audio("u", wav, 3000, 5000), want)


def test_digests_without_content(memory, server, monkeypatch):
    """They change when a file does, and nothing is read for them."""
    for root in (memory, server.url):
        dataset = find_recordings([f"{root}/{n}.flac" for n in range(2)])
        with monkeypatch.context() as patch:
            patch.setattr("speechbrain_ext.dataio.remote.read_bytes", None)
            first = audio_digests(dataset)
            assert len(set(first)) == 2 and audio_digests(dataset) == first
    system = fsspec.filesystem("memory")
    system.pipe("/corpus/0.flac", b"other")
    dataset = find_recordings([f"{memory}/{n}.flac" for n in range(2)])
    again = audio_digests(dataset)
    assert again[0] != again[1]


def test_digests_of_files_unpacked_together(corpus, server):
    """Size and time are the same, which is all that this server tells."""
    for name in "ab":
        (corpus / name).write_text(name)
        os.utime(corpus / name, (0, 0))
    digests = audio_digests(
        find_recordings([f"{server.url}/{n}" for n in "ab"])
    )
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    "wav, message",
    [
        ("nfs5://x/a.wav", "^nfs5://x/a.wav: Protocol not known: nfs5"),
        ("s3://bucket/a.wav", "^s3://bucket/a.wav: Install s3fs"),
        ("memory://corpus/9.flac", "There is no file memory://corpus/9.flac"),
        ("memory://corpus/manifest.csv", "is not readable audio"),
        ("http://127.0.0.1:9/a.wav", "a.wav cannot be reached .*: call again"),
    ],
)
def test_bad_addresses(wav, message, memory, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=message) as raised:
        check_audio(find_recordings([wav]))
    assert "\n" not in str(raised.value)
    if "manifest" not in wav:
        with pytest.raises(InputError, match=message.replace(".wav", ".txt")):
            find_recordings(wav.replace(".wav", ".txt"))


def test_a_file_that_is_not_there_is_left_out(server, encoder, tmp_path):
    wavs = [f"{server.url}/{name}" for name in ("0.flac", "no.flac")]
    left_out = {}
    dataset = find_recordings(wavs)
    check_audio(dataset, unreadable=left_out)
    assert list(left_out) == wavs[1:]
    assert left_out[wavs[1]] == f"There is no file {wavs[1]}"


@pytest.mark.parametrize(
    "ill, message",
    [(404, "There is no file"), (503, "cannot be reached")],
)
def test_digests_say_what_is_wrong_with_a_server(ill, message, server):
    dataset = find_recordings([f"{server.url}/0.flac"])
    server.left, server.ill = -1, ill
    with pytest.raises(InputError, match=message):
        audio_digests(dataset)


@pytest.mark.parametrize(
    "ill, workers", [("cut off", 0), (503, 1), (429, 0), ("gone", 0)]
)
def test_a_server_that_dies(ill, workers, corpus, server, encoder, tmp_path):
    """One line; the next call goes on with what is left."""
    want = features(load_manifest(corpus), encoder, tmp_path / "local")
    dataset = load_manifest(f"{server.url}/manifest.csv")
    check_audio(dataset)
    options = {"batch_size": 1, "num_workers": workers}
    server.left, server.ill = 3, ill
    # A file that is cut off could be left out; without a server no other
    # file can be read either.
    left_out = None if ill == "cut off" else {}
    with pytest.raises(InputError, match=r"http.*\.flac cannot be re") as died:
        features(
            *(dataset, encoder, tmp_path / "cache"),
            unreadable=left_out,
            **options,
        )
    assert "\n" not in str(died.value) and not left_out
    server.left = before = 10**9
    found = features(dataset, encoder, tmp_path / "cache", **options)
    assert np.array_equal(found, want)
    assert 0 < before - server.left < COUNT


class Answer(Exception):
    """What a client of HTTP raises."""

    def __init__(self, status):
        self.status = status


@pytest.mark.parametrize(
    "error, ends_the_call",
    [
        (Answer(403), False),
        (PermissionError(), False),
        (Answer(503), True),
        (ConnectionResetError(), True),
    ],
)
def test_a_refused_file_is_no_dead_server(error, ends_the_call):
    with pytest.raises(InputError) as raised, remote._reading("s3://b/a.wav"):
        raise error
    assert isinstance(raised.value, Unreachable) == ends_the_call


def test_a_part_ends_where_it_ends():
    part = remote._Part(io.BytesIO(b"abcdef"), 1, 3)
    assert part.seek(0) == 0
    buffer = bytearray(4)
    assert part.readinto(buffer) == 2 and buffer == b"bc\0\0"
    assert part.seek(0, 2) == 2 and part.readinto(buffer) == 0
