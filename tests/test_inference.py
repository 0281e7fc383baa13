"""Exports side by side, and what it takes to import and to write one."""

import shutil
import subprocess
import sys

import pytest
import soundfile
import torch
from conftest import voiced
from helpers import build_export

from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.inference.subspaces import load_exports
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.pooled_encoder import PooledEncoder
from speechbrain_ext.lobes.subspaces import SubspaceNetwork
from speechbrain_ext.models import packaged_model
from speechbrain_ext.utils.errors import InputError


def write(folder, encoder=None, layers=(0,), **options):
    encoder = encoder or load_encoder("log_mel")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.get("seed") or 0)
        head = SubspaceNetwork([1, 560], ["speaker"], {"speaker": 4}, [])
    export_subspaces(folder, encoder, head, layers, **options)
    return folder


def test_inference_imports_no_plots_and_no_scikit_learn():
    """But what SpeechBrain and transformers load themselves."""
    code = (
        "import sys, speechbrain.inference, transformers\n"
        "before = set(sys.modules)\n"
        "import speechbrain_ext.inference.export\n"
        "import speechbrain_ext.inference.stock\n"
        "import speechbrain_ext.lobes.classifier_encoder\n"
        "import speechbrain_ext.lobes.transformers_encoders\n"
        "print(*set(sys.modules) - before)"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    names = {name.split(".")[0] for name in printed.split()}
    assert "speechbrain_ext" in names
    assert not names & {"matplotlib", "sklearn", "pandas"}


@pytest.mark.parametrize("trained_otherwise", [False, True])
def test_pooling_survives_an_export(trained_otherwise, tmp_path):
    """Of an encoder that is named, and of one that is copied."""
    source = packaged_model("mini")
    if trained_otherwise:
        source = shutil.copytree(source, tmp_path / "model")
    encoder = load_encoder("mini", source, pooling="mean_std")
    folder = build_export(tmp_path / "export", encoder, layers=[1, 4])
    assert (folder / "encoder.ckpt").exists() == trained_otherwise
    model = SubspaceEncoder.from_hparams(source=str(folder))
    embedding, wavs = model.mods.embedding_model, torch.randn(2, 8000)
    assert embedding.encoder.identity == encoder.identity
    expected = encoder(wavs)[:, [1, 4]]
    assert torch.equal(embedding.pooled(wavs), expected)
    assert expected.shape == (2, 2, 576)


def test_exports_of_a_table(tmp_path):
    half = {"speaker": 0.5}
    folders = [
        write(tmp_path / "one", name="joint", seed=1, encoder_label="mel"),
        write(tmp_path / "two", name="joint", seed=2, thresholds=half),
        write(tmp_path / "three", seed=1, card="# It"),
    ]
    assert (tmp_path / "three/README.md").read_text() == "# It"
    # An older export does not say how tables call its encoder.
    path = tmp_path / "two/hyperparams.yaml"
    old = [x for x in path.read_text().splitlines() if "encoder_label" not in x]
    path.write_text("\n".join(old))
    found = [model.hparams for model in load_exports(folders)]
    assert [(h.name, h.seed, h.encoder_label) for h in found] == [
        ("joint", 1, "mel"),
        ("joint", 2, "log_mel"),
        ("subspaces", 1, "log_mel"),
    ]
    assert found[1].thresholds == half
    (model,) = load_exports(folders[0], names=["mine"])
    assert model.hparams.name == "mine"
    twice = [folders[0], folders[0]]
    assert len(load_exports(twice, names=["a", "b"])) == 2
    mel = load_encoder("log_mel", overrides={"encoder": {"floor": 1e-5}})
    other = write(tmp_path / "four", mel, name="joint", seed=1)
    last = write(tmp_path / "five", layers=[-1], name="joint", seed=1)
    for exports, names, message in (
        (twice, None, "one are both called 'joint'"),
        (twice, ["x", "x"], "both called 'x'"),
        (twice, "ab", "2 exports, but 1 names"),
        ([folders[0], other], None, "seeds 1 and 1, on other features"),
        ([folders[0], last], None, "seeds 1 and 1, on the same features"),
        (twice, ["a", "b|c"], "export_names is .* without | and /"),
        (folders[0], ["b\nc"], "export_names is .* in one line"),
        (folders[0], [3], r"export_names is \[3\]"),
        (folders, ["x"], "3 exports, but 1 names"),
        ([], None, "No export_folder"),
    ):
        with pytest.raises(InputError, match=message):
            load_exports(exports, names=names)
    path = last / "hyperparams.yaml"
    path.write_text(path.read_text().replace('"joint"', '"a\\nb"'))
    with pytest.raises(InputError, match="five: name is .* in one line"):
        load_exports(last)


@pytest.mark.parametrize(
    "options", [{"name": "a/b"}, {"name": "a\nb"}, {"encoder_label": "a|b"}]
)
def test_names_that_are_none(tmp_path, options):
    with pytest.raises(InputError, match=f"{min(options)} is .* in one line"):
        write(tmp_path / "export", **options)
    assert not list(tmp_path.iterdir())


def test_an_export_is_written_whole_or_not_at_all(tmp_path):
    folder = write(tmp_path / "a" / "export", seed=1)
    (folder / "mine.txt").write_text("of the user")
    before = (folder / "network.ckpt").read_bytes()
    with pytest.raises(InputError, match="cannot be copied"):
        write(folder, PooledEncoder(16000, {}), seed=2)
    assert (folder / "network.ckpt").read_bytes() == before
    (tmp_path / "a" / ".export.killed").mkdir()
    write(folder, seed=2)
    assert (folder / "network.ckpt").read_bytes() != before
    assert not (folder / "mine.txt").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["export"]


def test_the_ready_model(tmp_path):
    """It embeds, decides and adapts; its card names what it was fitted to."""
    model = SubspaceEncoder.from_packaged()
    assert [source.name for source in model.hparams.sources] == [
        "grid",
        "arabic_speech_commands",
        "speechocean762",
    ]
    assert model.hparams.threshold_origin == "recordings"
    noise = torch.randn(2, 16000, generator=torch.manual_seed(0)) / 9
    assert model.encode_batch(noise).shape == (2, 1, 150)
    for number, wav in enumerate(noise):
        soundfile.write(tmp_path / f"{number}.wav", wav.numpy(), 16000)
    _, same = model.verify_files(
        tmp_path / "0.wav", tmp_path / "0.wav", false_accepts=0.001
    )
    assert same.item()
    for licence in ("CC BY 4.0", "free for both", "apache-2.0"):
        assert licence in model.card


def test_what_can_be_given(tmp_path):
    """Arrays, tensors, lists of either, and lists of paths: the same."""
    model = SubspaceEncoder.from_packaged(run_opts={"device": "cpu"})
    waves = [voiced(n, n, 0, 0.4 + 0.2 * n) for n in range(3)]
    paths = [tmp_path / f"{n}.wav" for n in range(3)]
    for path, wave in zip(paths, waves):
        soundfile.write(path, wave, 16000, subtype="FLOAT")
    want = torch.cat([model.encode_batch(wave) for wave in waves])
    tensors = [torch.from_numpy(wave) for wave in waves]
    for given in (waves, tensors, tuple(waves)):
        assert torch.allclose(model.encode_batch(given), want, atol=1e-5)
    assert torch.allclose(model.encode_file(paths), want, atol=1e-5)
    assert torch.allclose(model.encode_file([str(paths[1])] * 2), want[[1, 1]])
    score, same = model.verify_batch(waves[:2], waves[1:])
    for n in range(2):
        one = model.verify_files(*paths[n : n + 2])
        assert torch.allclose(score[n], one[0], atol=1e-5)
        assert same[n] == one[1]
    for bad in ([waves], [[waves[0]], "x"], "a.wav"):
        with pytest.raises(InputError, match="encode_batch takes"):
            model.encode_batch(bad)
