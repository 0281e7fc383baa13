"""Speaker encoders in ONNX files."""

import sys

import numpy as np
import pytest
import torch
from conftest import voiced

from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.trust import trusted
from speechbrain_ext.utils.errors import InputError

pytest.importorskip("onnxruntime")


def _varint(value):
    """A whole number, seven bits a byte."""
    low = [value & 127 | 128] if value > 127 else [value]
    return bytes(low) + (_varint(value >> 7) if value > 127 else b"")


def _field(number, value):
    """A field of a protocol buffer: a whole number, a text, or fields."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    value = value.encode() if isinstance(value, str) else b"".join(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def write_model(path, n_mels=80, operator="ReduceMean", rank=3, batch="B"):
    """An ONNX file that gives the means over time of what it takes."""

    def tensor(name, *sizes):
        """A tensor of floats, its type and shape."""
        dims = [
            _field(1, [_field(2 if isinstance(s, str) else 1, s)])
            for s in sizes
        ]
        kind = _field(1, [_field(1, 1), _field(2, dims)])
        return [_field(1, name), _field(2, [kind])]

    axes = [_field(1, "axes"), _field(8, 1), _field(20, 7)]
    keep = [_field(1, "keepdims"), _field(3, 0), _field(20, 2)]
    node = [_field(1, "feats"), _field(2, "embs"), _field(4, operator)]
    node += [_field(5, axes), _field(5, keep)]
    graph = [
        _field(1, node),
        _field(2, "mean"),
        _field(11, tensor("feats", *(batch, "T", n_mels)[3 - rank :])),
        _field(12, tensor("embs", *("B", n_mels)[3 - rank :])),
    ]
    opset = [_field(1, ""), _field(2, 13)]
    path.write_bytes(
        b"".join([_field(1, 7), _field(7, graph), _field(8, opset)])
    )
    return path.parent


def clips(*seconds):
    return [
        torch.from_numpy(voiced(number, number, seconds=s))
        for number, s in enumerate(seconds)
    ]


def test_takes_filter_banks_and_gives_embeddings(tmp_path):
    """The means of the bands are those of Kaldi, plus a scale's logarithm."""
    knf = pytest.importorskip("kaldi_native_fbank")
    folder = write_model(tmp_path / "mean.onnx")
    plain = {"subtract_mean": False, "min_seconds": 0.1}
    [wav] = clips(1.0)
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    for scale in (1.0, 32768.0):
        given = {"encoder": plain | {"scale": scale}}
        encoder = load_encoder("onnx_speaker", folder, overrides=given)
        computer = knf.OnlineFbank(options)
        computer.accept_waveform(16000, (scale * wav).tolist())
        frames = [computer.get_frame(i) for i in range(98)]
        assert computer.num_frames_ready == 98
        found = encoder(wav[None])
        assert found.shape == (1, 1, 80)
        wanted = torch.from_numpy(np.mean(frames, axis=0))
        assert torch.allclose(found[0, 0], wanted, atol=2e-3)
    # What is subtracted is the mean over time.
    encoder = load_encoder("onnx_speaker", folder)
    assert encoder(wav[None]).abs().max() < 1e-4


def test_does_not_depend_on_the_batch_and_pads_short_clips(tmp_path):
    folder = write_model(tmp_path / "mean.onnx")
    given = {"encoder": {"subtract_mean": False}}
    encoder = load_encoder("onnx_speaker", folder, overrides=given)
    one, other = clips(0.4, 1.3)
    batch = torch.nn.utils.rnn.pad_sequence([one, other], batch_first=True)
    found = encoder(batch, torch.tensor([0.4 / 1.3, 1.0]))
    assert torch.equal(found[1:], encoder(other[None]))
    padded = torch.nn.functional.pad(one, (0, 16000 - len(one)))
    assert torch.equal(found[:1], encoder(padded[None]))


def test_identity_is_that_of_the_file_and_its_input(tmp_path):
    """A cache of features tells models apart, and not where they are."""
    identities = []
    for name, operator in (("a", "ReduceMean"), ("b", "ReduceMax")):
        (tmp_path / name).mkdir()
        write_model(tmp_path / name / "model.onnx", operator=operator)
        encoder = load_encoder("onnx_speaker", tmp_path / name)
        identities.append(encoder.identity)
    (tmp_path / "b").rename(tmp_path / "c")
    again = load_encoder("onnx_speaker", tmp_path / "c").identity
    other = {"encoder": {"window": "hamming"}}
    other = load_encoder("onnx_speaker", tmp_path / "c", overrides=other)
    assert again == identities[1] != identities[0]
    assert other.identity != again


def test_what_is_no_such_model_is_refused_in_a_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"without model \(\*.onnx\)"):
        load_encoder("onnx_speaker", tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    with pytest.raises(InputError, match="cannot be loaded as an ONNX model"):
        load_encoder("onnx_speaker", tmp_path)
    for options in ({"n_mels": 40}, {"rank": 2}):
        write_model(path, **options)
        with pytest.raises(InputError, match=r"expected one, \[B, frames, 80"):
            load_encoder("onnx_speaker", tmp_path)
    write_model(path, batch=4)
    with pytest.raises(InputError, match=r"take filter banks of shape \[1, 98"):
        load_encoder("onnx_speaker", tmp_path)
    write_model(tmp_path / "other.onnx")
    with pytest.raises(InputError, match="several models, model.onnx, other"):
        load_encoder("onnx_speaker", tmp_path)
    given = {"file": "other.onnx"}
    load_encoder("onnx_speaker", tmp_path, overrides=given)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="not installed: call pip install"):
        load_encoder("onnx_speaker", tmp_path, overrides=given)


def test_runs_no_code_and_can_be_exported(tmp_path):
    """So an export with such an encoder needs no trust."""
    folder = write_model(tmp_path / "mean.onnx")
    before = trusted.set(False)
    try:
        assert load_encoder("onnx_speaker", folder).dim == 80
    finally:
        trusted.reset(before)


def test_campplus_tells_speakers(shared):
    """A supervised model: two takes of a voice are alike, two voices not."""
    folder = shared / "models/campplus"
    if not folder.is_dir():
        pytest.skip("the model CAM++ is not here")
    audio = shared / "data/speechocean762_train/audio"
    if not audio.is_dir():
        pytest.skip("the recordings are not here")
    encoder, vectors = load_encoder("onnx_speaker", folder), []
    for speaker in sorted(audio.iterdir())[:3]:
        for path in sorted(speaker.iterdir())[:2]:
            wav = read_audio(str(path), str(path), sample_rate=16000)
            vectors.append(encoder(wav[None])[0, 0])
    unit = torch.nn.functional.normalize(torch.stack(vectors))
    scores = unit @ unit.T
    same = torch.tensor([scores[i, i + 1] for i in (0, 2, 4)])
    others = torch.stack([scores[0, 2:], scores[1, 2:]])
    assert encoder.dim == 192 and same.min() > others.max() + 0.1
