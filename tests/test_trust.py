"""Exports that are not what they were, and what they may run."""

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import build_export
from tiny_models import save_ecapa

from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.speaker import SpeakerRecognition
from speechbrain.utils.fetching import FetchConfig
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.inference.stock import (
    MarkPadding,
    StockEmbedding,
    subspace_embedding,
)
from speechbrain_ext.inference.subspaces import load_export
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.linear_subspaces import LinearSubspaces
from speechbrain_ext.lobes.model_files import find_model
from speechbrain_ext.lobes.subspaces import FeatureStandardiser
from speechbrain_ext.lobes.trust import ENCODER, check_constructors
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import hparams_folder


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
    with pytest.raises(InputError, match="holds more than weights") as raised:
        load_export(export, trust=True)
    assert "weights_only" not in str(raised.value)
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
        ('"name": "log_mel"', "name: {}.yaml"),
        ("seed: null", "seed: !!python/object/apply:os.mkdir ['{}']"),
        # HyperPyYAML reads what looks like a tuple once more.
        ("seed: null", "seed: (!!python/object/apply:os.mkdir [{}])"),
        ("seed: null", "seed: !appl%79:os.mkdir ['{}']"),
        # Attributes are how one gets from an object to anything.
        ("seed: null", "seed: !ref <network.__class__>"),
        ("seed: null", "a: <network\nb: .load>\nseed: !ref <a><b>"),
        # Here one parser sees a list, and another a quoted text.
        ("seed: null", f'seed:\n- x\u2028- "\n- {RUNS}\n- y "'),
        ('"name": "log_mel"', "name: ecapa\n    source: {}"),
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


def test_a_file_of_another_name_is_checked_too(export, tmp_path):
    text = (export / "hyperparams.yaml").read_text()
    run = RUNS.format(tmp_path / "ran")
    (export / "other.yaml").write_text(f"{text}\nevil: {run}\n")
    with pytest.raises(InputError, match="would run !apply:os.mkdir"):
        SubspaceEncoder.from_hparams(str(export), "other.yaml")


@pytest.mark.parametrize("text", ["a: [", "a: " + 3000 * "["])
def test_damaged_options(export, text):
    (export / "hyperparams.yaml").write_text(f"{text} # SubspaceEmbedding")
    with pytest.raises(InputError, match="cannot be read as YAML"):
        load_export(export)


@pytest.mark.parametrize(
    "load", [load_export, SubspaceEncoder.from_hparams], ids=["load", "class"]
)
@pytest.mark.parametrize(
    "old, new, message",
    [
        ("rate: 16000", "rate: 8000", "sample_rate is 8000: expected 16000"),
        ("layers: [-1]", "layers: [7]", r"layers is \[7\]: .* from -1 to 0"),
        ("layers: [-1]", "layers: null", "Cannot load the export"),
        ("thresholds: {}", "thresholds: [1]", r"thresholds is \[1\]: expected"),
        ("thresholds: {}", "thresholds: {speaker: no}", "thresholds is .*each"),
        ("thresholds: {}", "thresholds: {speakr: 0.5}", "some of speaker, con"),
    ],
)
def test_options_that_do_not_fit(export, load, old, new, message):
    rewrite(export, old, new)
    with pytest.raises(InputError, match=message):
        load(str(export))


def test_options_that_are_no_text(export):
    with pytest.raises(InputError, match="no.yaml cannot be read as text"):
        SubspaceEncoder.from_hparams(export, "no.yaml")
    path = export / "hyperparams.yaml"
    path.write_bytes(path.read_bytes() + "# café".encode("latin-1"))
    for load in (load_export, SubspaceEncoder.from_hparams):
        for trust in (False, True):
            with pytest.raises(InputError, match="read as text in UTF-8"):
                load(export, trust=trust)


@pytest.mark.parametrize("trust", ["no", 1, None])
def test_trust_is_yes_or_no(export, trust):
    for load in (load_export, subspace_embedding, SubspaceEncoder.from_hparams):
        with pytest.raises(InputError, match="trust is .* True or False"):
            load(export, trust=trust)


def test_encoders_that_need_no_trust():
    """All of the package but the one that reads the file of another model."""
    refused = []
    for path in (hparams_folder() / "encoders").glob("*.yaml"):
        text = path.read_text()
        replaced = {"source": "x"} if "!PLACEHOLDER" in text else {}
        try:
            check_constructors(text, ENCODER, path, replaced)
        except InputError:
            refused.append(path.stem)
    assert refused == ["ecapa"]


@pytest.mark.parametrize("load", [load_export, subspace_embedding])
def test_what_is_trusted_is_run(export, tmp_path, load):
    run = RUNS.format(tmp_path / "ran")
    rewrite(export, "sample_rate:", f"a: {run}\nsample_rate:")
    load(export, trust=True)
    assert (tmp_path / "ran").is_dir()


def test_a_revision_is_not_passed_over(export):
    with pytest.raises(InputError, match="has no revision: give 'v1'"):
        SubspaceEncoder.from_hparams(
            export, fetch_config=FetchConfig(revision="v1")
        )


EVIL = f"evil: {RUNS}"


@pytest.mark.parametrize(
    "part, text, member, key, message",
    [
        ("mine.yaml", EVIL, "mine.yaml", "encoder", "would run !apply:os"),
        ("mine.yaml", EVIL, "./mine.yaml", "encoder", "would run !apply:os"),
        ("mine.yaml", EVIL, "mine.yaml", "other", "would run !apply:os"),
        ("overrides", EVIL, "overrides", "encoder", "takes no evil"),
        ("overrides", "n: [", "overrides", "encoder", "not a packed encoder"),
    ],
)
def test_a_packed_encoder_runs_nothing_else(
    tmp_path, part, text, member, key, message
):
    log_mel = "!new:speechbrain_ext.lobes.log_mel.LogMelStatistics"
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"encoder: {log_mel}\n    n_mels: 40\n")
    export = build_export(tmp_path / "export", load_encoder(mine))
    assert load_export(export).encode_batch(torch.randn(1, 16000)).ndim == 3
    # Packed again, with something more in it, perhaps under another name.
    path, parts = export / "encoder.ckpt", tmp_path / "parts"
    with tarfile.open(path) as tar:
        tar.extractall(parts, filter="data")
    before = (parts / part).read_text().replace("{}", "")
    (parts / part).write_text(f"{before}\n{text}\n".format(tmp_path / "ran"))
    with tarfile.open(path, "w") as tar:
        for name in ("mine.yaml", "overrides"):
            tar.add(parts / name, member if name == part else name)
    with pytest.raises(InputError, match="is not the file that was written"):
        load_export(export, trust=True)
    options = export / "hyperparams.yaml"
    text = options.read_text().split("    custom_hooks:")[0]
    options.write_text(text.replace("        encoder:", f"        {key}:"))
    path.rename(export / f"{key}.ckpt")
    with pytest.raises(InputError, match=message):
        load_export(export)
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
    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(os, "link", refuse)
    for kind in (SubspaceEncoder, EncoderClassifier, SpeakerRecognition):
        kind.from_hparams(source=str(export))
    SubspaceEncoder.from_hparams(export, savedir=tmp_path / "saved")
    load_encoder("ecapa", save_ecapa(tmp_path / "ecapa"))
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


def test_a_classifier_has_all_its_weights(tmp_path):
    folder = save_ecapa(tmp_path / "ecapa")
    path = Path(folder) / "embedding_model.ckpt"
    state = torch.load(path, weights_only=True)
    name, _ = state.popitem()
    torch.save(state, path)
    with pytest.raises(InputError, match=f"lacks 1 weights, such as {name}"):
        load_encoder("ecapa", folder)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="Cannot load .*ecapa"):
        load_encoder("ecapa", folder)


def test_git_lfs_pointers(export, tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
    (export / "network.ckpt").write_text(pointer)
    for load in (load_export, EncoderClassifier.from_hparams):
        with pytest.raises(InputError, match="git lfs pull"):
            load(str(export))
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(InputError, match="safetensors is a Git LFS pointer"):
        find_model(tmp_path)


@pytest.mark.parametrize(
    "lens",
    [[1.0], [1.0, 0.5], [1.0, 2.0, 0.5], [48000, 16000, 8000], [0, 1, 1],
     [-0.5, 1, 1], [float("nan"), 1, 1], [[1.0, 1.0, 1.0]], 1.0],
)  # fmt: skip
def test_lengths_are_relative_and_one_for_each(export, lens):
    model, wavs = load_export(export), torch.randn(3, 16000)
    for call in (model.encode_batch, MarkPadding()):
        with pytest.raises(
            InputError, match="relative lengths, shape .3."
        ) as e:
            call(wavs, torch.tensor(lens))
        samples = lens == [48000, 16000, 8000]
        assert ("divide by the longest" in str(e.value)) == samples


@pytest.mark.parametrize(
    "wavs, message",
    [
        (np.ones((2, 800), np.int16), "floating-point .* torch.int16"),
        ([[[0.1]] * 800, [0.1]], r"a list of waveforms of shape \[time\]"),
        ("a.wav", r"shape \[B, time\]"),
        (np.full((2, 800), np.nan, "float32"), "Utterance 0 .* NaN"),
        (np.zeros((0, 800), "float32"), r"\[0, 800\]"),
        (np.zeros((1, 2, 800), "float32"), r"\[1, 2, 800\]"),
        (np.zeros((800, 2)), r"are \[time, channels\]"),
        (np.zeros((2, 0)), "no samples"),
    ],
)
def test_waveforms_that_are_none(export, wavs, message):
    with pytest.raises(InputError, match=message):
        load_export(export).encode_batch(wavs)
    if isinstance(wavs, np.ndarray):
        wavs, lens = torch.tensor(wavs), torch.ones(len(wavs))
        model = StockEmbedding(load_export(export).mods.embedding_model)
        message = message.replace("Utterance 0", "Utterance .")
        for call in (model, lambda wavs: MarkPadding()(wavs, lens)):
            with pytest.raises(InputError, match=message):
                call(wavs)


def test_batches_and_files_of_users(export, tmp_path, caplog):
    model = load_export(export)
    wavs = np.random.default_rng(0).normal(size=(2, 8000)) / 9
    found = model.encode_batch(wavs)
    assert torch.equal(found, model.encode_batch(torch.tensor(wavs)))
    # One utterance, backwards.
    back = torch.tensor(wavs[:1, ::-1].copy())
    assert torch.equal(
        model.encode_batch(wavs[0, ::-1]), model.encode_batch(back)
    )
    for path, message in (
        (tmp_path / "no.wav", "no file .*no.wav"),
        ([wavs], "paths of audio files"),
    ):
        with pytest.raises(InputError, match=message):
            model.encode_file(path)
    soundfile.write(tmp_path / "a.wav", wavs[0], 16000)
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[:9000])
    model.encode_file(tmp_path / "a.wav")
    assert "a.wav, which has 4478 samples of 8000" in caplog.text


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
    rewrite(export, 'threshold_origin: "grid"', "threshold_origin: pairs")
    load_export(export).verify_files(*pair)
    assert caplog.text.count("may accept strangers") == 1


def test_the_row_with_nan_is_named():
    features = torch.randn(24, 1, 4)
    features[5, 0, 2] = torch.nan
    with pytest.raises(InputError, match=r"1 of 24 rows .* row 5"):
        FeatureStandardiser([1, 4]).fit(features)


@pytest.mark.parametrize("other", ["a", "b"])
def test_statistics_of_one_recording(export, tmp_path, other):
    """Listed twice, or copied."""
    wav = np.random.default_rng(0).normal(size=16000) / 9
    for name in {"a", other}:
        soundfile.write(tmp_path / f"{name}.wav", wav, 16000)
    path = tmp_path / "manifest.csv"
    path.write_text(f"ID,wav\nu,a.wav\nv,{other}.wav\n")
    with pytest.raises(InputError, match="All 2 utterances have the same fea"):
        load_export(export).estimate_statistics(path)
