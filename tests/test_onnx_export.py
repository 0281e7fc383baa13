"""Exports as one ONNX file."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import transformers
from conftest import ROOT, voiced
from test_onnx_encoder import write_model
from tiny_models import save_tiny, tiny_teacher

from speechbrain_ext.inference import SubspaceEncoder, onnx_export
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.inference.onnx_export import export_onnx
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.subspaces import SubspaceNetwork
from speechbrain_ext.utils.errors import InputError

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

LAYER_NORM = dict(feat_extract_norm="layer", do_stable_layer_norm=True)
# Name in hparams/encoders, kind of the tiny model, changes of it, pooling.
ENCODERS = {
    "log_mel": ("log_mel", None, {}, None),
    "wav2vec2_group": ("wav2vec2_base", "wav2vec2", {}, "mean"),
    "wav2vec2_layer": ("hf_encoder", "wav2vec2", LAYER_NORM, "mean_std"),
    "hubert": ("hubert_base", "hubert", {}, "mean"),
    "hubert_batch_norm": (
        "hf_encoder",
        "hubert",
        LAYER_NORM | {"conv_pos_batch_norm": True},
        "mean",
    ),
    "wavlm": ("wavlm_base", "wavlm", {}, "max"),
    "wavlm_layer": ("wavlm_base_plus", "wavlm", LAYER_NORM, "mean"),
}


def make(folder, encoder, layers=(-1,)):
    """An export of an encoder with a head of random weights, loaded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = SubspaceNetwork(
            [len(layers), encoder.dim],
            ["speaker", "content"],
            {"speaker": 6, "content": 4},
            hidden=[16],
            layer_mixture=len(layers) > 1,
            residual_width=3,
        )
    export_subspaces(folder / "export", encoder, head, layers)
    return SubspaceEncoder.from_hparams(folder / "export")


def written(model, path):
    """The session of a model that was written."""
    export_onnx(model, path)
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(str(path), providers=providers)


def difference(model, session, wavs, lengths):
    """Largest difference, in parts of the largest number."""
    lens = torch.tensor(lengths) / wavs.shape[1]
    given = {"wavs": wavs.numpy(), "wav_lens": lens.numpy()}
    found, parts = session.run(None, given), []
    for name, vectors in zip(model.subspaces, found):
        wanted = model.encode_batch(wavs, lens, name)[:, 0].numpy()
        assert vectors.shape == wanted.shape
        parts.append(np.abs(vectors - wanted).max() / np.abs(wanted).max())
    return max(parts)


def batch(*lengths):
    """Buzzes of so many samples, with noise in place of their padding."""
    wavs = 0.1 * torch.randn(len(lengths), max(lengths))
    for row, n in enumerate(lengths):
        wavs[row, :n] = torch.from_numpy(voiced(row, row, seconds=9))[:n]
    return wavs, list(lengths)


@pytest.mark.parametrize("case", ENCODERS)
def test_equals_torch_at_any_length(case, tmp_path):
    """Not only at that of the trace (2/3 s) or of the check (up to 3 s)."""
    name, kind, changes, pooling = ENCODERS[case]
    source = kind and save_tiny(tmp_path / "model", kind, **changes)
    encoder = load_encoder(name, source, pooling=pooling)
    layers = [0] if encoder.n_layers == 1 else [1, 0]
    model = make(tmp_path, encoder, layers)
    session = written(model, tmp_path / "model.onnx")
    for lengths in ([7, 399, 401], [16_001], [90_001, 1, 640, 33_333]):
        assert difference(model, session, *batch(*lengths)) < 1e-4


def test_the_packaged_model_and_what_its_file_says(tmp_path):
    model = SubspaceEncoder.from_packaged()
    path = tmp_path / "new" / "model.onnx"
    session = written(model, path)
    assert difference(model, session, *batch(90_001, 100, 30_000)) < 1e-4
    # Sums of 32 bits would leave something of it, which is then amplified.
    constant = torch.full((1, 16_000), 0.3)
    assert difference(model, session, constant, [16_000]) < 1e-4
    assert [path.name for path in path.parent.iterdir()] == ["model.onnx"]
    about = session.get_modelmeta().custom_metadata_map
    assert about["name"] == "recommended_adapted" and about["encoder"] == "mini"
    assert about["sample_rate"] == "16000"
    assert json.loads(about["subspaces"]) == ["speaker", "content"]
    assert json.loads(about["thresholds"]) == model.hparams.thresholds
    assert about["threshold_origin"] == "recordings"
    # Nothing of this machine.
    data = path.read_bytes()
    assert str(ROOT).encode() not in data and b"site-packages" not in data
    inputs = {one.name: (one.type, one.shape) for one in session.get_inputs()}
    assert inputs == {
        "wavs": ("tensor(float)", ["batch", "time"]),
        "wav_lens": ("tensor(float)", ["batch"]),
    }
    outputs = {one.name: one.shape for one in session.get_outputs()}
    assert outputs == {"speaker": ["batch", 150], "content": ["batch", 100]}


def test_layers_above_the_last_chosen_are_left_out(tmp_path):
    encoder, sizes = load_encoder("mini"), []
    for layer in (1, 4):
        path = tmp_path / f"{layer}.onnx"
        export_onnx(make(tmp_path, encoder, [layer]), path)
        sizes.append(path.stat().st_size)
    assert sizes[0] < 0.6 * sizes[1]


def test_rounds_lengths_as_torch_does(tmp_path):
    """Half a sample to the even side, and never beyond the end."""
    model = make(tmp_path, load_encoder("log_mel"))
    session = written(model, tmp_path / "model.onnx")
    wavs = 0.01 * torch.randn(5, 1001)
    wavs[:, [500, 502, 1000]] = torch.tensor([0.3, 0.6, 0.9])
    for time in (1001, 1003):
        wavs = torch.nn.functional.pad(wavs, (0, time - wavs.shape[1]))
        lens = [0.5, 0.4999, 0.5011, 1 - 1e-7, 1 + 1e-7]
        samples = [length * time for length in lens]
        assert difference(model, session, wavs, samples) < 1e-4


@pytest.mark.parametrize("kind", ["onnx", "whisper", "moonshine"])
def test_encoders_that_cannot_be_written_are_refused(kind, tmp_path, capfd):
    folder, name = tmp_path / "model", "hf_encoder"
    folder.mkdir()
    reason = "spectrograms are not computed by operators of ONNX"
    if kind == "onnx":
        name, _ = "onnx_speaker", write_model(folder / "mean.onnx")
    elif kind == "whisper":
        sizes = dict(d_model=16, max_source_positions=100, vocab_size=51866)
        for side in ("encoder", "decoder"):
            sizes |= {f"{side}_layers": 1, f"{side}_attention_heads": 2}
            sizes |= {f"{side}_ffn_dim": 16}
        config = transformers.WhisperConfig(**sizes)
        transformers.WhisperModel(config).save_pretrained(folder)
        extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
        extractor.save_pretrained(folder)
    else:  # whose positions torch's exporter gets wrong
        reason, _ = "cannot be written as an ONNX graph", tiny_teacher(folder)
    model = make(tmp_path, load_encoder(name, folder))
    capfd.readouterr()
    with pytest.raises(InputError, match=reason) as caught:
        export_onnx(model, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value) and not capfd.readouterr().out
    assert not list(tmp_path.glob("*.onnx"))


def test_a_graph_that_differs_is_refused(tmp_path, monkeypatch):
    """One of a constant from the length of the trace, and the file stays."""
    path = tmp_path / "model.onnx"
    path.write_text("before")
    model = make(tmp_path, load_encoder("log_mel"))
    forward = onnx_export._Segments.forward
    monkeypatch.setattr(
        onnx_export._Segments,
        "forward",
        lambda self, x: forward(self, x[..., : int(x.shape[2])]),
    )
    with pytest.raises(InputError, match="differs from torch by .*than 0.0001"):
        export_onnx(model, path)
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.glob("*.onnx")] == ["model.onnx"]


def test_what_is_knowable_is_refused_first(tmp_path, monkeypatch):
    model = SubspaceEncoder.from_packaged()
    with pytest.raises(InputError, match="is a folder: give the name of a"):
        export_onnx(model, tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="needs onnx.* pip install onnx"):
        export_onnx(model, tmp_path / "model.onnx")


def test_example_without_torch(tmp_path):
    """As verify_files, in an interpreter that has no torch."""
    folder = ROOT / "recipes/InterventionalTTS/examples"
    for name, take in (("a", 0), ("b", 1)):
        wav = np.stack([voiced(1, 1, take)] * 2, axis=1)
        soundfile.write(tmp_path / f"{name}.wav", wav, 16000)
    files = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    model = SubspaceEncoder.from_packaged()
    export_onnx(model, tmp_path / "model.onnx")
    code = (
        "import sys; sys.modules['torch'] = None; sys.path.insert(0, '.');"
        "import onnx_without_torch as example; example.main(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.onnx")]
    said = subprocess.run(
        [*command, *files], cwd=folder, capture_output=True, text=True
    )
    assert not said.returncode, said.stderr
    score, same = model.verify_files(*files)
    verdict = "same" if same else "different"
    threshold = model.hparams.thresholds["speaker"]
    wanted = f"{verdict} speaker: {score.item():.3f}, threshold {threshold:.3f}"
    assert said.stdout.strip() == wanted
    soundfile.write(files[1], voiced(2, 2, rate=8000), 8000)
    said = subprocess.run(
        [*command, *files], cwd=folder, capture_output=True, text=True
    )
    assert said.returncode and "resample it to 16000" in said.stderr
