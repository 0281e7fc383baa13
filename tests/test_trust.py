"""Exports that are not what they were, and what they may run."""

import os
import shutil
import tarfile

import numpy as np
import pytest
import soundfile
import torch
from helpers import build_export

from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.speaker import SpeakerRecognition
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.inference.stock import MarkPadding
from speechbrain_ext.inference.subspaces import load_export
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.linear_subspaces import LinearSubspaces
from speechbrain_ext.lobes.model_files import find_model
from speechbrain_ext.lobes.subspaces import FeatureStandardiser
from speechbrain_ext.utils.errors import InputError


@pytest.fixture
def export(tmp_path):
    return build_export(tmp_path / "export", load_encoder("log_mel"))


def rewrite(folder, old, new):
    path = folder / "hyperparams.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def save_weights(folder, change):
    path = folder / "network.ckpt"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop(next(iter(state))),
        lambda state: state.pop("standardiser.mean"),
        lambda state: state.update(other=torch.ones(1)),
        lambda state: state.update({next(iter(state)): torch.ones(7)}),
    ],
)
def test_weights_are_all_there_and_the_export_s_own(export, change, old):
    """Also by SpeechBrain's own classes, and in exports without digests."""
    save_weights(export, change)
    message = "is not the file that was written"
    if old:
        path = export / "hyperparams.yaml"
        path.write_text(path.read_text().split("    custom_hooks:")[0])
        message = "does not have the weights of this head"
    for load in (
        load_export,
        lambda folder: EncoderClassifier.from_hparams(source=str(folder)),
    ):
        with pytest.raises(InputError, match=message):
            load(export)


def test_weights_of_another_export_are_refused(export, tmp_path):
    other = build_export(tmp_path / "o", load_encoder("log_mel"), seed=1)
    shutil.copy(other / "network.ckpt", export)
    with pytest.raises(InputError, match="is not the file that was written"):
        load_export(export)


def test_a_pickle_is_not_run(export, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"a": Attack()}, export / "network.ckpt")
    path = export / "hyperparams.yaml"
    path.write_text(path.read_text().split("    custom_hooks:")[0])
    with pytest.raises(InputError):
        load_export(export, trust=True)
    assert not (tmp_path / "ran").exists()


RUNS = "!apply:os.mkdir [{}]"


@pytest.mark.parametrize(
    "old, new",
    [
        ("sample_rate:", f"evil: {RUNS}\nsample_rate:"),
        ("sample_rate:", f"evil: [[[{RUNS}]]]\nsample_rate:"),
        ("sample_rate:", f"&a {RUNS}: 1\nsample_rate:"),
        ("seed: null", "seed: !applyref:os.mkdir [{}]"),
        ("seed: null", "seed: !include:{}"),
        ("seed: null", "seed: !module:os"),
        ("seed: null", "seed: !name:os.mkdir"),
        ('name: "log_mel"', "name: {}.yaml"),
        ('name: "log_mel"', 'name: "log_mel"\n    overrides: {{a: 1}}'),
        ('name: "log_mel"', "name: ecapa\n    source: {}"),
        ("!new:torch.nn.Identity", "!new:subprocess.Popen [ls]"),
    ],
)
def test_nothing_but_the_package_s_own_is_run(export, tmp_path, old, new):
    rewrite(export, old, new.format(tmp_path / "ran"))
    (tmp_path / "ran.yaml").write_text(f"encoder: {RUNS}".format("ran"))
    for load in (load_export, SubspaceEncoder.from_hparams):
        with pytest.raises(InputError, match="would run .* trust=True"):
            load(str(export))
    assert not (tmp_path / "ran").exists()


def test_what_is_trusted_is_run(export, tmp_path):
    rewrite(export, "sample_rate:", f"a: {RUNS}\nsample_rate:".format(
        tmp_path / "ran"))  # fmt: skip
    load_export(export, trust=True)
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("part", ["mine.yaml", "overrides"])
def test_a_packed_encoder_runs_nothing_else(tmp_path, part):
    log_mel = "!new:speechbrain_ext.lobes.log_mel.LogMelStatistics"
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"encoder: {log_mel}\n    n_mels: 40\n")
    export = build_export(tmp_path / "export", load_encoder(mine))
    assert load_export(export).encode_batch(torch.randn(1, 16000)).ndim == 3
    # Packed again, with something more in it
    path = export / "encoder.ckpt"
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "parts")
    text = (tmp_path / "parts" / part).read_text().replace("{}", "")
    text += f"\nevil: {RUNS}\n".format(tmp_path / "ran")
    (tmp_path / "parts" / part).write_text(text)
    with tarfile.open(path, "w") as tar:
        for name in ("mine.yaml", "overrides"):
            tar.add(tmp_path / "parts" / name, name)
    with pytest.raises(InputError, match="would run apply:os.mkdir"):
        load_export(export)
    with pytest.raises(InputError, match="is not the file that was written"):
        load_export(export, trust=True)
    assert not (tmp_path / "ran").exists()


def test_savedir_of_another_export(export, tmp_path):
    for _ in range(2):
        SubspaceEncoder.from_hparams(str(export), savedir=tmp_path / "saved")
    other = build_export(tmp_path / "o", load_encoder("log_mel"), seed=1)
    with pytest.raises(InputError, match="savedir .* of another export"):
        SubspaceEncoder.from_hparams(str(other), savedir=tmp_path / "saved")


def test_no_links_are_needed(export, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)
    for kind in (SubspaceEncoder, EncoderClassifier, SpeakerRecognition):
        kind.from_hparams(source=str(export))
    mine = tmp_path / "mine.yaml"
    mine.write_text((load_encoder("log_mel")).recipe.text)
    encoder, head = load_encoder(mine), LinearSubspaces([1, 560], {"a": 2})
    for name, shared in (("b", None), ("c", tmp_path / "b")):
        export_subspaces(tmp_path / name, encoder, head, [0], shared=shared)
        load_export(tmp_path / name)


def test_a_local_encoder_is_kept_once(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text((load_encoder("log_mel")).recipe.text)
    encoder, head = load_encoder(mine), LinearSubspaces([1, 560], {"a": 2})
    for name, shared in (("b", None), ("c", tmp_path / "b")):
        export_subspaces(tmp_path / name, encoder, head, [0], shared=shared)
    one, two = (tmp_path / name / "encoder.ckpt" for name in "bc")
    assert one.samefile(two)
    shutil.rmtree(tmp_path / "b")
    load_export(tmp_path / "c")


def test_an_export_has_no_classes(export, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.randn(16000) / 9, 16000)
    model = EncoderClassifier.from_hparams(source=str(export))
    with pytest.raises(InputError, match="classifies nothing"):
        model.classify_file(str(tmp_path / "a.wav"))


def test_git_lfs_pointers(export, tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
    (export / "network.ckpt").write_text(pointer)
    with pytest.raises(InputError, match="git lfs pull"):
        load_export(export)
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(InputError, match="model.safetensors is a pointer"):
        find_model(tmp_path)


@pytest.mark.parametrize(
    "lens",
    [[1.0], [1.0, 0.5], [1.0, 2.0, 0.5], [48000, 16000, 8000], [0, 1, 1],
     [-0.5, 1, 1], [float("nan"), 1, 1], [[1.0, 1.0, 1.0]], 1.0],
)  # fmt: skip
def test_lengths_are_relative_and_one_for_each(export, lens):
    model, wavs = load_export(export), torch.randn(3, 16000)
    for call in (model.encode_batch, MarkPadding()):
        with pytest.raises(InputError, match="relative lengths, shape .3."):
            call(wavs, torch.tensor(lens))


@pytest.mark.parametrize(
    "wavs, message",
    [
        (np.ones((2, 800), np.int16), "floating-point .* torch.int16"),
        ([[0.1] * 800, [0.1]], r"shape \[B, time\]"),
        ("a.wav", r"shape \[B, time\]"),
        (np.full((2, 800), np.nan, "float32"), "Utterance 0 .* NaN"),
        (np.zeros((0, 800), "float32"), r"\[0, 800\]"),
        (np.zeros((1, 2, 800), "float32"), r"\[1, 2, 800\]"),
    ],
)
def test_waveforms_that_are_none(export, wavs, message):
    with pytest.raises(InputError, match=message):
        load_export(export).encode_batch(wavs)


def test_batches_and_files_of_users(export, tmp_path):
    model = load_export(export)
    wavs = np.random.default_rng(0).normal(size=(2, 8000)) / 9
    found = model.encode_batch(wavs)
    assert torch.equal(found, model.encode_batch(torch.tensor(wavs)))
    for path, message in (
        (tmp_path / "no.wav", "there is no file .*no.wav"),
        ([tmp_path / "no.wav"], "path of one file"),
    ):
        with pytest.raises(InputError, match=message):
            model.encode_file(path)


def test_a_threshold_of_other_voices_is_warned_of_once(
    export, tmp_path, caplog
):
    rewrite(export, "thresholds: {}", "thresholds: {speaker: 0.5}")
    for name in "abc":
        wav = np.random.default_rng(ord(name)).normal(size=16000) / 9
        soundfile.write(tmp_path / f"{name}.wav", wav, 16000)
    pair = tmp_path / "a.wav", tmp_path / "b.wav"
    model = load_export(export)
    for _ in range(2):
        model.verify_files(*pair)
    assert caplog.text.count("may accept strangers") == 1
    manifest = "ID,wav\n" + "".join(f"{n},{n}.wav\n" for n in "abc")
    (tmp_path / "manifest.csv").write_text(manifest)
    model = load_export(export)
    model.estimate_statistics(tmp_path / "manifest.csv").verify_files(*pair)
    assert caplog.text.count("may accept strangers") == 1


def test_the_row_with_nan_is_named():
    features = torch.randn(24, 1, 4)
    features[5, 0, 2] = torch.nan
    with pytest.raises(InputError, match=r"1 of 24 rows .* row 5"):
        FeatureStandardiser([1, 4]).fit(features)
