"""WebDataset shards: samples as rows, read wherever the shards lie."""

import argparse
import io
import os
import tarfile

import fsspec
import numpy as np
import pytest
import soundfile
import torch
from conftest import voiced
from test_remote import features, serving

from speechbrain_ext.cli.commands import find
from speechbrain_ext.dataio.audio import check_audio, read_audio
from speechbrain_ext.dataio.digests import audio_digests
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.manifest import (
    find_recordings,
    load_manifest,
    recordings_name,
)
from speechbrain_ext.dataio.remote import members
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import write_csv

COUNT, PER_SHARD = 7, 3  # the last shard is shorter
NAMES = [f"s{n % 2}/u{n}" for n in range(COUNT)]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("log_mel")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The same clips as files, and in shards that webdataset writes."""
    wds = pytest.importorskip("webdataset")
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "shards").mkdir()
    pattern = str(folder / "shards/shard-%06d.tar")
    with wds.ShardWriter(pattern, maxcount=PER_SHARD, verbose=0) as sink:
        for n, name in enumerate(NAMES):
            (folder / name).parent.mkdir(exist_ok=True)
            path = folder / f"{name}.flac"
            wave = voiced(n % 2, n, 0, 0.5 + 0.1 * n)
            soundfile.write(path, wave, 16000)
            sample = {"__key__": name, "flac": path.read_bytes()}
            sample |= {"json": {"speaker": f"s{n % 2}", "start": 1.5}}
            sink.write(sample | {"txt": f"text {n}", "npy": np.ones(300)})
    return folder


@pytest.mark.parametrize(
    "given, count", [("{}", 3), ("tar://s0/u0.flac::{}", 1)]
)
def test_on_the_command_line(corpus, given, count):
    """A shard is a list of recordings; a sample of one is a recording."""
    source = given.format(corpus / "shards/shard-000000.tar")
    dataset = find(argparse.Namespace(source=[source], data_folder=None))
    check_audio(dataset)
    assert len(dataset) == count


def test_rows(corpus, tmp_path):
    """Of a pattern, a folder, a list, a file of names: all the same."""
    pattern = f"{corpus}/shards/shard-{{000000..000002}}.tar"
    data = load_manifest(
        pattern, factors=["speaker", "content"], columns={"content": "txt"}
    ).data
    assert list(data) == [
        f"shard-{n // PER_SHARD:06d}/{name}" for n, name in enumerate(NAMES)
    ]
    row = data["shard-000001/s0/u4"]
    assert (row["speaker"], row["content"]) == ("s0", "text 4")
    assert set(row) == {"speaker", "content", "wav"}
    shards = sorted((corpus / "shards").iterdir())
    (tmp_path / "list.txt").write_text("\n".join(map(str, shards)))
    for source in (corpus / "shards", shards, tmp_path / "list.txt"):
        wavs = [row["wav"] for row in find_recordings(source).data.values()]
        assert wavs == [row["wav"] for row in data.values()]
    assert recordings_name(corpus / "shards") == "shards"


def test_features_are_those_of_files(corpus, encoder, tmp_path):
    """Also by shards of the work, with workers, over HTTP and in memory."""
    files = [corpus / f"{name}.flac" for name in NAMES]
    want = features(find_recordings(files), encoder, tmp_path / "files")
    pattern = "shard-{000000..000002}.tar"
    dataset = find_recordings(f"{corpus}/shards/{pattern}")
    assert len(set(audio_digests(dataset))) == COUNT  # not those of shards
    cache, options = tmp_path / "cache", {"progress": False}
    for part in (1, 0):
        extract_features(dataset, encoder, cache, shard=(part, 2), **options)
    found = extract_features(dataset, encoder, cache, **options)
    assert len(found.parts) == 2 and np.array_equal(found.array, want)
    memory = fsspec.filesystem("memory")
    memory.put(str(corpus / "shards"), "/shards", recursive=True)
    with serving(corpus / "shards") as server:
        roots = "memory://shards", f"simplecache::{server.url}"
        for n, root in enumerate(roots):
            dataset = find_recordings(f"{root}/{pattern}")
            cache = tmp_path / f"{n}"
            found = features(dataset, encoder, cache, num_workers=2 * n)
            assert np.array_equal(found, want)
        # This one gives no parts of files.
        dataset = find_recordings(f"{server.url}/{pattern}")
        with pytest.raises(InputError, match="no parts .*: write simplecache:"):
            features(dataset, encoder, tmp_path / "no")
    memory.rm("/shards", recursive=True)


def test_a_manifest_of_members(corpus, encoder, tmp_path):
    """Written once it saves the index; offsets may be left out."""
    dataset = find_recordings(corpus / "shards")
    rows = [{"ID": key, **row} for key, row in dataset.data.items()]
    write_csv(tmp_path / "manifest.csv", rows, ["ID", "wav"])
    again = load_manifest(tmp_path)
    wavs = [row["wav"] for row in again.data.values()]
    assert wavs == [row["wav"] for row in rows]
    for wav in wavs:
        name, shard = wav.split("::")
        plain = f"{name.partition('@')[0]}::{shard}"
        assert torch.equal(read_audio("u", plain), read_audio("u", wav))
        part = read_audio("u", wav, 100, 900)
        assert torch.equal(part, read_audio("u", wav)[100:900])


def test_tensors(tmp_path):
    """As SpeechBrain's recipe of VoxLingua107 writes them."""
    wds = pytest.importorskip("webdataset")
    wave = torch.from_numpy(voiced(0, 0)).float()[None]
    with wds.ShardWriter(f"{tmp_path}/%06d.tar", maxcount=9, verbose=0) as sink:
        sample = {"__key__": "en/x---0000_100", "language_id": "en"}
        sink.write(sample | {"audio.pth": wave})
    columns = {"speaker": "language_id"}
    dataset = load_manifest(tmp_path, None, ["speaker"], columns)
    check_audio(dataset)
    [(key, row)] = dataset.data.items()
    assert (key, row["speaker"]) == ("000000/en/x---0000_100", "en")
    assert torch.equal(read_audio(key, row["wav"]), wave[0])


def pack(path, mode="w", **files):
    """A tar file of some contents."""
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "files, message",
    [
        ({"a_txt": b"how are you"}, "0.tar has no samples with audio"),
        ({"a_json": b"[", "a_wav": b""}, "0.tar, a.json: expected {column:"),
        (
            {"a_x_wav": b"", "a_y_wav": b""},
            r"no column 'wav' .has x.wav, y.wav",
        ),
        ({"a_wav": b"", "mode": "w:gz"}, "0.tar is not a tar file, or"),
    ],
)
def test_bad_shards(files, message, tmp_path):
    shard = pack(tmp_path / "0.tar", **files)
    with pytest.raises(InputError, match=message) as raised:
        find_recordings(shard)
    assert "\n" not in str(raised.value)


def test_a_name_that_occurs_twice(tmp_path):
    shard = pack(tmp_path / "0.tar", a_wav=b"one", b_wav=b"other")
    pack(shard, "a", a_wav=b"three")
    with pytest.raises(InputError, match="0.tar: a.wav occurs twice"):
        find_recordings(shard)


def test_braces_that_are_not_closed():
    with pytest.raises(InputError, match="expected names such as {000..099}"):
        find_recordings("/data/shard-{000..099.tar")


def test_what_a_sample_says_of_its_source_is_left_out(tmp_path):
    said = b'{"id": "x", "wav": "/etc/b", "start": 1, "speaker": "ann"}'
    shard = pack(tmp_path / "0.tar", a_wav=b"", a_json=said)
    [(key, row)] = find_recordings(shard).data.items()
    assert (key, row["speaker"], len(row)) == ("0/a", "ann", 2)
    shard = pack(tmp_path / "1.tar", a_x_wav=b"", a_y_wav=b"", a_json=said)
    with pytest.raises(InputError, match="no column 'wav'"):
        find_recordings(shard)


def test_addresses_of_samples_are_no_shards(tmp_path):
    shard = pack(tmp_path / "0.tar", a_wav=b"", b_wav=b"")
    wav = f"tar://b.wav::{shard}"
    (tmp_path / "list.txt").write_text(f"{wav}\n")
    for source in ([wav], tmp_path / "list.txt"):
        assert find_recordings(source).data[wav]["wav"] == wav


def wav_start(shard, number):
    """Where the header of the first file of a sample is."""
    with tarfile.open(shard) as tar:
        names = [one.name for one in tar]
        first = next(n for n in names if n.startswith(NAMES[number]))
        return tar.getmember(first).offset


def test_shards_that_are_not_there_or_cut_off(corpus, tmp_path, caplog):
    with pytest.raises(InputError, match="There is no file .*000003.tar"):
        find_recordings(f"{corpus}/shards/shard-{{000000..000003}}.tar")
    shard = corpus / "shards/shard-000000.tar"
    cut = tmp_path / shard.name
    tar, start = shard.read_bytes(), wav_start(shard, 2)
    cut.write_bytes(tar[:start])  # just before a sample
    assert len(find_recordings(cut).data) == 2
    assert "shard-000000.tar has no end mark" in caplog.text
    cut.write_bytes(tar[:20000])
    with pytest.raises(InputError, match="is not a tar file, or it is cut off"):
        find_recordings(cut)
    dataset = find_recordings(shard)
    wav = list(dataset.data.values())[-1]["wav"].replace(str(shard), str(cut))
    with pytest.raises(InputError, match="is cut off, or the shard has"):
        read_audio("u", wav)
    two = {"wav": "y.wav", "ID": "id"}
    pack(cut, a_x_wav=b"", a_y_wav=b"", a_json=b'{"id": 7}')
    [(key, row)] = load_manifest(cut, columns=two).data.items()
    assert key == "7" and row["wav"].startswith("tar://a.y.wav@")


def test_a_shard_that_ends_while_it_is_listed(tmp_path):
    shard = pack(tmp_path / "0.tar", a_wav=b"", a_txt=b"x" * 60000)
    with pytest.raises(InputError, match="0.tar cannot be read .*unexpected"):
        for _, (offset, size), read in members(str(shard)):
            if size:
                os.truncate(shard, offset + 10000)
                read()


def test_what_is_too_long_for_a_text_is_none(tmp_path):
    shard = pack(tmp_path / "0.tar", a_wav=b"", a_txt=b"x" * 70000, a_cls=b"7")
    assert find_recordings(shard).data["0/a"].keys() == {"wav", "cls"}
