"""Vectors of many recordings, their files, and enrolled names."""

import copy

import numpy as np
import pytest
import soundfile
import torch
from conftest import voiced

from speechbrain_ext.dataio.manifest import find_recordings
from speechbrain_ext.inference.enrolment import Enrolment, fingerprint
from speechbrain_ext.inference.recordings import (
    Vectors,
    check_format,
    embed_recordings,
    read_vectors,
    write_vectors,
)
from speechbrain_ext.inference.subspaces import SubspaceEncoder
from speechbrain_ext.utils.errors import InputError


@pytest.fixture(scope="module")
def model():
    return SubspaceEncoder.from_packaged(run_opts={"device": "cpu"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five clips of several lengths, one of them of 36 s, and two bad files."""
    folder = tmp_path_factory.mktemp("recordings")
    for n, seconds in enumerate((0.5, 1.1, 0.7, 36, 0.5)):
        soundfile.write(folder / f"{n}.wav", voiced(n, n, 0, seconds), 16000)
    (folder / "text.wav").write_text("no audio")
    bad = np.full(8000, np.nan, "float32")
    soundfile.write(folder / "nan.wav", bad, 16000, subtype="FLOAT")
    return folder


def test_as_one_by_one(model, folder):
    """Batches change nothing, and bad files end nothing, but are named."""
    unreadable = {}
    made = embed_recordings(
        model, find_recordings(folder), unreadable=unreadable, progress=False
    )
    assert made.ids == [f"{n}.wav" for n in range(5)]
    assert set(unreadable) == {"text.wav", "nan.wav"}
    assert "NaN" in unreadable["nan.wav"]
    paths = [folder / key for key in made.ids]
    want = model.encode_file(paths)[:, 0].numpy()
    assert np.allclose(made.vectors, want, atol=1e-4)
    assert made.spans[3] == (0.0, 36.0)
    with pytest.raises(InputError, match="not readable audio"):
        embed_recordings(model, find_recordings(folder), progress=False)


def test_windows(model, folder):
    dataset = find_recordings([folder / "3.wav", folder / "0.wav"])
    made = embed_recordings(model, dataset, in_spans=True, progress=False)
    long, short = dataset.data
    assert made.ids == [long] * 3 + [short]
    assert made.spans == [(0, 20), (10, 30), (20, 36), (0, 0.5)]
    wave = torch.from_numpy(soundfile.read(long, dtype="float32")[0])
    want = model.encode_batch(wave[10 * 16000 : 30 * 16000])[0, 0]
    assert np.allclose(made.vectors[1], want, atol=1e-4)


def test_a_bad_file_is_tried_again(model, folder, tmp_path):
    """What was left out for a while is there in the next call."""
    for name in ("0.wav", "nan.wav"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    given = {"cache_folder": tmp_path / "cache", "progress": False}
    first, left_out = find_recordings(tmp_path), {}
    embed_recordings(model, first, unreadable=left_out, **given)
    assert list(left_out) == ["nan.wav"]
    again = {}
    embed_recordings(model, first, unreadable=again, **given)
    assert again == left_out


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".ark"])
def test_files(tmp_path, suffix):
    if suffix != ".npz":
        library = {".parquet": "pyarrow", ".ark": "kaldiio"}[suffix]
        pytest.importorskip(library)
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    made = Vectors(["b", "a", "ä/c.wav"], vectors, [(0.0, 1.0)] * 3)
    path = tmp_path / f"x{suffix}"
    parts = [Vectors(*(c[a:b] for c in made)) for a, b in ((0, 2), (2, 3))]
    assert write_vectors(path, iter(parts)) == (3, 4)
    ids, found = read_vectors(path)
    assert ids == made.ids and np.array_equal(found, vectors)
    write_vectors(path, parts, in_spans=True)
    ids, found = read_vectors(path)
    assert len(set(ids)) == 3 and np.array_equal(found, vectors)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match="cannot be read as vectors"):
        read_vectors(path)


@pytest.mark.parametrize("shape", [(3, 2), (2,)])
def test_other_arrays_are_refused(shape, tmp_path):
    np.savez(tmp_path / "x.npz", ids=["a", "b"], vectors=np.ones(shape))
    with pytest.raises(InputError, match=r"has 2 ids and .*: expected \[ids"):
        read_vectors(tmp_path / "x.npz")


def test_what_a_file_cannot_hold(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is a folder"):
        (tmp_path / "x.npz").mkdir()
        check_format(tmp_path / "x.npz")
    with pytest.raises(InputError, match="'a b' has a blank"):
        check_format("x.ark", ["a b"])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match="install pyarrow"):
        check_format("x.parquet")


def test_enrolment(tmp_path, model):
    path, mark = tmp_path / "team.npz", fingerprint(model)
    assert mark != fingerprint(model, "content")
    layers, weights = copy.deepcopy(model), copy.deepcopy(model)
    layers.mods.embedding_model.layers = [0, 1]
    state = weights.mods.embedding_model.network.state_dict()
    next(iter(state.values())).add_(1)
    assert mark not in (fingerprint(layers), fingerprint(weights))
    with pytest.raises(InputError, match="Nobody is enrolled"):
        Enrolment.load(path, mark).identify(np.eye(2), 0.5)
    enrolment = Enrolment.load(path, mark)
    enrolment.enrol("bob", ["b"], [[0.0, 3.0]])
    enrolment.enrol("ann", ["a", "a2"], [[2.0, 0.0], [5.0, 0.0]])
    enrolment.save(path)
    again = Enrolment.load(path, mark)
    again.enrol("ann", ["a"], [[0.0, -1.0]])  # in place of the first
    assert again.names == ["bob", "ann", "ann"]
    names, scores = again.identify([[1.0, -1.0], [-1.0, 0.1]], 0.3)
    assert names == ["ann", None]
    assert np.allclose(scores, [1, 0.1 / np.hypot(1, 0.1)])
    with pytest.raises(InputError, match="a is enrolled as 'ann'"):
        again.enrol("bob", ["a"], [[0.0, 1.0]])
    with pytest.raises(InputError, match="another export or subspace"):
        Enrolment.load(path, fingerprint(model, "content"))
    again.clips.pop()
    again.save(path)
    with pytest.raises(InputError, match="is damaged"):
        Enrolment.load(path, mark)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="not a store"):
        Enrolment.load(path, mark)
