"""The mini encoder that comes with the package, and its pre-training."""

import importlib
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, voiced, write_manifest
from safetensors.torch import load_file
from tiny_models import tiny_teacher

from speechbrain_ext.dataio.manifest import factor_labels
from speechbrain_ext.evaluation.results import read_results, select
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.models import check_sums, packaged_model
from speechbrain_ext.processing.choice import Choice
from speechbrain_ext.processing.closed_form import channel_lda
from speechbrain_ext.synthesis.espeak import VOICES_CSV, read_voices
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv
from speechbrain_ext.utils.hparams import plain_hparams

RECIPE = ROOT / "recipes/MiniEncoder/pretraining"


@pytest.fixture
def recipe(monkeypatch):
    """Imports modules of the recipe, for one test."""
    monkeypatch.syspath_prepend(str(RECIPE))
    yield importlib.import_module
    for path in RECIPE.glob("*.py"):
        sys.modules.pop(path.stem, None)


# The packaged weights ----------------------------------------------------


def test_weights_are_small_half_precision_and_the_published_ones(tmp_path):
    folder = Path(packaged_model("mini"))
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert sum(weight.numel() for weight in weights.values()) <= 5_000_000
    assert (folder / "model.safetensors").stat().st_size <= 10_000_000
    copied = shutil.copytree(folder, tmp_path / "mini")
    check_sums(copied)
    content = bytearray((copied / "model.safetensors").read_bytes())
    content[5_000_000] ^= 1
    (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="model.safetensors.*damaged"):
        check_sums(copied)


def test_hidden_states_through_speechbrains_wrapper():
    mini = load_encoder("mini")
    assert type(mini.network).__module__.endswith("huggingface.wav2vec2")
    assert mini.handles_padding  # runs in padded batches with a mask
    vectors = mini(torch.from_numpy(voiced(1, 2))[None])[0]
    # The layers are not one and the same, and none is dead.
    assert torch.corrcoef(vectors).triu(1).max() < 0.999
    assert vectors.std(dim=1).min() > 0.01
    # The last one is normalised in every version of transformers.
    model = mini.network.model
    assert model.config.tie_last_hidden_states is True
    with torch.no_grad():
        output = model(torch.randn(1, 8000), output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


# The recipe --------------------------------------------------------------


def run(script, folder, *options):
    """Run a script of the recipe as its README says."""
    options = (RECIPE / f"hparams/{script}.yaml", *options)
    return subprocess.run(
        [sys.executable, RECIPE / f"{script}.py", *options],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def pretrain(folder, recordings, *options, epochs=1):
    """A training on a small slice: the row of tests/recipes."""
    row = read_csv(ROOT / "tests/recipes/MiniEncoder.csv")[0]
    flags = row["test_debug_flags"].replace(
        "_epochs=2", f"_epochs={epochs} --max_lr=0.003"
    )
    own = ("--output_folder=out", "--device=cpu", f"--recordings={recordings}")
    return run("train", folder, *shlex.split(flags), *own, *options)


def test_slice_of_the_pretraining_runs_and_goes_on(tmp_path, small_grid):
    """Synthesis, teacher, training, a second call that goes on, the model."""
    pytest.importorskip("espeakng_loader")
    tiny_teacher(tmp_path / "tests/tmp/tiny/teacher")
    twice = f"[{{folder: {small_grid}, split: train, repeat: 2}}]"

    kept = []
    for epochs in (1, 3):
        done = pretrain(tmp_path, twice, epochs=epochs)
        assert done.returncode == 0, done.stderr
        files = tmp_path.glob("tests/tmp/*/*-*[yt]")
        kept.append({path: path.stat().st_mtime_ns for path in files})
    assert kept[0] == kept[1] and len(kept[0]) == 2  # frames and voices
    for key, options in (
        ("voice", [twice, "--voice={shrinkage: 0.1}"]),
        ("repeats", [twice.replace("repeat: 2", "repeat: 3")]),
    ):
        other = pretrain(tmp_path, *options)
        assert other.returncode == 1
        assert f"made with another {key}" in other.stderr

    log = (tmp_path / "out/train_log.txt").read_text()
    assert re.findall(r"epoch: (\d)", log) == ["1", "2", "3"]
    losses = [float(x) for x in re.findall(r"valid distil: ([\d.e+-]+)", log)]
    assert losses[-1] < losses[0]
    for task in ("speaker_accuracy", "word_accuracy", "heard", "voice"):
        assert f"train {task}" in log

    check_sums(tmp_path / "out/model")
    encoder = load_encoder("mini", tmp_path / "out/model")
    assert (encoder.n_layers, encoder.dim) == (3, 32)
    assert encoder.handles_padding


def test_evaluation_gives_rows_for_each_layer(tmp_path, small_grid):
    """The command of the README, on a small grid in place of the default."""
    done = run(
        *("evaluate", tmp_path, f"--data_folder={small_grid}"),
        *("--output_folder=out", "--cache_folder=features"),
        *("--skip_prep=True", "--min_clips=2", "--unheard_splits=[test]"),
        *(f"--keywords={{w: {small_grid}}}", f"--speakers={{s: {small_grid}}}"),
        *("--encoders={log_mel: null}", "--choice={shrinkages: [0.8, 0.2]}"),
    )
    assert done.returncode == 0, done.stderr
    found = read_results(tmp_path / "out")
    # What was chosen for each layer.
    report = (tmp_path / "out/report.txt").read_text()
    said = re.findall(r"mini, (\w+): layers (\d), shrinkage 0\.[82],", report)
    assert said == [(f, n) for n in "01234" for f in ("speaker", "content")]
    for layer, best in enumerate(found["about"]["mini"]["chosen"]):
        for one in best.values():
            assert one["layers"] == [layer] and one["shrinkage"] in (0.8, 0.2)

    def values(condition="recorded", **wanted):
        wanted |= {"condition": condition, "encoder": "mini"}
        rows = select(found["rows"], **wanted)
        assert [row["layers"] for row in rows] == list("01234")
        return np.array([row["value"] for row in rows])

    eer = {"measure": "eer", "data": "s"}
    known = eer | {"system": "recommended", "subspace": "speaker"}
    plain = values(system="baseline_standardised", **eer)
    assert (values(**known) < plain).all()
    assert (values(**known) < values("channels", **known)).all()
    for system in ("baseline_standardised", "recommended"):
        probe = {"task": "leakage", "target": "content", "system": system}
        for measure, group, n in (
            ("accuracy", "", 94),
            ("balanced_accuracy", "", 6),
            ("accuracy", "unheard", 24),
        ):
            one = {"measure": measure, "group": group, "n": n} | probe
            assert (values(**one) > 0.7).all()  # chance is 0.17
    sizes = select(found["rows"], encoder="mini", condition="")
    count, megabytes, speed = (row["value"] for row in sizes)
    assert 4_800_000 < count < 4_900_000 and megabytes == count * 2 / 1e6
    assert 1 < speed < 10_000


def test_each_layer_is_shrunk_as_the_validation_voices_say(recipe, monkeypatch):
    """A noise that two numbers share is told only by a weak shrinkage."""
    module, rng = recipe("evaluate"), np.random.default_rng(0)
    features, grids = {}, {}
    for split, speakers in (("grid", 8), ("valid", 6)):
        rows = [(s, c) for s in range(speakers) for c in range(8)]
        keys = ("speaker", "content")
        data = {str(row): dict(zip(keys, row)) for row in rows}
        grids[split] = SimpleNamespace(data=data)
        made = rng.normal(size=(len(rows), 2, 4)) / 10
        made[:, :, [0, 2]] += np.array(rows)[:, None]
        made[:, 1, :2] += 20 * rng.normal(size=(len(rows), 1))
        features[split] = torch.tensor(made, dtype=torch.float32)
    taken = []

    def pool(hparams, encoder, dataset, name, take):
        taken.append((name, take))
        return features[name.split("-")[1]]

    monkeypatch.setattr(module, "pool", pool)
    options = {"augmented_takes": 1, "max_trials": 1000}
    options["choice"] = Choice(shrinkages=[0.9, 1e-6])
    given = {"dims": {"speaker": 1, "content": 1}, "channel_weight": 1.0}
    options["head"] = partial(channel_lda, **given)
    encoder = SimpleNamespace(n_layers=2)
    heads, chosen = module.fit_heads(options, "x", encoder, *grids.values())
    assert ("x-valid", 1) in taken and ("x-grid-0", None) in taken
    shrinkages = [
        {factor: one["shrinkage"] for factor, one in best.items()}
        for best in chosen
    ]
    assert shrinkages == [
        {"speaker": 0.9, "content": 0.9},
        {"speaker": 1e-6, "content": 0.9},
    ]
    labels = factor_labels(grids["grid"], [*grids["grid"].data], given["dims"])
    takes = features["grid"].expand(2, -1, -1, -1)
    for layer, head in enumerate(heads):
        own = takes[:, :, [layer]]
        same = options["head"](own, labels, shrinkage=shrinkages[layer])
        for name, weight in same.state_dict().items():
            assert torch.equal(weight, head.state_dict()[name])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("encoders: {mini: {shrinkage: 0.3}}", "{label: null, or name and"),
        ("encoders: {other: {source: x}}", "{label: null, or name and"),
        ("head: {shrinkage: 0.3}", "the shrinkage is chosen"),
        ("head: {dims: {speakr: 3}}", "with some of speaker, content"),
        ("choice: {shrinkages: [2]}", "at most 1"),
        ("choice: {most_layers: 2}", "with some of shrinkages"),
    ],
)
def test_what_the_evaluation_chooses_is_not_given(recipe, option, said):
    path, rules = RECIPE / "hparams/evaluate.yaml", recipe("evaluate").RULES
    plain_hparams(path, "encoders: {log_mel: null}", rules)
    with pytest.raises(InputError, match=re.escape(said)):
        plain_hparams(path, option, rules)


def write_clips(folder, clips, rate=16000):
    """A folder of clips, (samples, speaker, word), with a manifest."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number, (wave, speaker, word) in enumerate(clips):
        row = {"ID": f"c{number}", "wav": f"{number}.wav"}
        soundfile.write(folder / row["wav"], wave, rate)
        rows.append(row | {"speaker": speaker, "word": word})
    write_manifest(folder / "manifest.csv", rows)
    return folder


def test_crops_and_the_teachers_frames_stay_aligned(tmp_path, recipe):
    """Frame k of a clip starts at sample 384 k, in crops too."""
    module, frame = recipe("clips"), 384
    wave = np.arange(30_000, dtype=np.int16)
    write_clips(tmp_path, [(wave, "x", "")])
    clips = module.Clips(tmp_path, [{"folder": tmp_path, "repeat": 3}])
    assert clips.lengths.tolist() == [30_720, 30_000]
    assert clips.repeats.tolist() == [1, 3]
    # Without what makes it longer.
    assert (clips.speech(0).numpy() * 32768 == wave).all()
    frames = np.arange(clips.frame_starts[-1])[:, None, None]
    voices = torch.zeros(2, 1)
    crops = module.Crops(clips, frames, voices, None, [0, 1, 1], 1.0, 0.0)
    offsets = set()
    for crops.epoch in range(8):
        item = crops[1]
        first = round(item["wav"][0].item() * 32768)
        offsets.add(first)
        assert first % frame == 0 and len(item["wav"]) == 16000
        start = clips.frame_starts[1] + first // frame
        stop = start + module.n_frames(16000)
        assert item["targets"].flatten().tolist() == list(range(start, stop))
    assert len(offsets) > 2
    # A clip that is repeated gives other crops.
    assert not torch.equal(crops[1]["wav"], crops[2]["wav"])
    network = load_encoder("mini").network.model
    for length in (895, 1278, 1279, 16000):
        made = network._get_feat_extract_output_lengths(length)
        assert module.n_frames(length) == int(made)


def test_distillation_ignores_padding_and_is_zero_for_the_teacher(recipe):
    tasks, counts = recipe("tasks"), torch.arange(1, 1001)
    mask = tasks.padding_mask(counts / 1000, 1000)
    assert (mask.sum(1) == counts).all()
    loss = tasks.Distillation(4, 2)
    targets = 3 + 2 * torch.randn(2, 5, 2, 4)
    loss.fit_statistics(targets.flatten(0, 1), targets.mean(dim=1))
    mask = tasks.padding_mask(torch.tensor([1.0, 0.6]), 5)
    hidden = [targets[:, :, n].clone() for n in range(2)]
    for layer in hidden:
        layer[1, 3:] = 1e6
    for part in loss(hidden, targets, mask):
        assert part.abs().max() < 1e-5
    hidden[1][0, 0] += 1
    for part in loss(hidden, targets, mask):
        assert part[0] < 1e-5 and part[1] > 1e-2


def test_pooled_distillation_is_one_for_the_mean_of_all_clips(recipe):
    """Also where most of the variance is in one direction."""
    torch.manual_seed(0)
    loss = recipe("tasks").Distillation(4, 1)
    scale = torch.tensor([10.0, 1.0, 1.0, 1.0])
    targets = (torch.randn(500, 1, 1, 4) * scale).expand(-1, 3, -1, -1)
    loss.fit_statistics(targets.flatten(0, 1), targets.mean(dim=1))
    mask = torch.ones(500, 3, dtype=torch.bool)
    mean = targets.mean(dim=(0, 1)).expand(500, 3, 4)
    assert loss([mean], targets, mask)[1].item() == pytest.approx(1, abs=0.02)
    # All that is left to learn is in directions of little variance.
    nearly = mean.clone()
    nearly[..., 0] = targets[:, :, 0, 0]
    plain = (nearly - targets[:, :, 0]).square().sum(-1).mean() / 103
    assert plain < 0.04 < 0.3 < loss([nearly], targets, mask)[1]


def test_regression_is_zero_when_right_and_one_for_the_mean(recipe):
    torch.manual_seed(0)
    task = recipe("tasks").Regression(6, 2)
    pooled = 50 + 3 * torch.randn(400, 6)
    wanted = pooled[:, :2] - 50
    for _ in range(500):
        task(pooled, wanted)
    task.eval()
    torch.nn.init.zeros_(task.head.weight)
    torch.nn.init.zeros_(task.head.bias)
    assert task(pooled, wanted).item() == pytest.approx(1, abs=0.01)
    with torch.no_grad():
        task.head.weight[:, :2] = torch.diag(pooled[:, :2].std(dim=0))
    assert task(pooled, wanted) < 0.01
    task.train()
    before = task.normalise.running_mean.clone()
    assert torch.isfinite(task(pooled[:1], wanted[:1]))  # has no deviation
    assert torch.equal(task.normalise.running_mean, before)


def test_recordings_are_repeated_and_never_labelled(tmp_path, recipe):
    Clips = recipe("clips").Clips
    made = write_clips(tmp_path / "made", [(voiced(1, 1), "x", "y")])
    # Of any rate and number of channels.
    stereo = np.stack([voiced(2, 1, 0, 0.8)] * 2, axis=1)
    real = write_clips(tmp_path / "real", [(stereo, "x", "y")], 8000)
    real = {"folder": str(real)}
    clips = Clips(made, [real])
    assert clips.words.tolist() == clips.speakers.tolist() == [0, -1]
    assert clips.lengths[1] == 2 * len(stereo)
    for option in ({"repeat": 0}, {"repeat": None}, {"repeats": 3}):
        with pytest.raises(InputError, match="expected a folder, and"):
            Clips(made, [real | option])

    known = SimpleNamespace(targets=lambda *_: None, fit=lambda *_: None)
    options = {"teacher": known, "voice": known, "target_folder": None}
    options |= {"seed": 1, "valid_share": 0.0, "data_folder": made}
    options["crops"] = lambda *known, numbers: numbers
    options["recordings"] = [real | {"repeat": 5}, real | {"repeat": 2}]
    clips, crops = recipe("train").dataio_prep(options)
    train, valid = crops["train"], crops["valid"]
    # At least two validate, once each; the third is repeated.
    assert len(set(valid)) == len(valid) == 2 and not set(train) & set(valid)
    assert len(set(train)) == 1 and len(train) == clips.repeats[train[0]]


def test_voice_tells_speakers_apart_and_needs_no_label(tmp_path, recipe):
    """As heard without a channel it is that of the clip as recorded."""
    made, real = (
        write_clips(
            tmp_path / part,
            [(voiced(s, c), f"s{s}", "") for s in speakers for c in range(6)],
        )
        for part, speakers in (("made", range(4)), ("real", range(4, 7)))
    )
    clips = recipe("clips").Clips(made, [{"folder": real}])
    VoiceTargets = recipe("voices").VoiceTargets
    voice = VoiceTargets(dims=10)
    voices = voice.fit(clips, tmp_path)
    assert voices.shape == (42, 3) and voice.dims == 3
    assert voices[:24].square().mean().item() == pytest.approx(1)
    groups = voices[:24].reshape(4, 6, 3)
    within = groups.var(dim=1).mean()
    assert within < 0.1 * groups.mean(dim=1).var(dim=0).mean()
    assert voices[24:].reshape(3, 6, 3).mean(dim=1).std(dim=0).min() > 0.1
    heard = voice(clips.speech(30)[None])
    assert torch.allclose(heard[0], voices[30], atol=1e-5)
    again = VoiceTargets(dims=10)  # from the file
    assert torch.equal(again.fit(clips, tmp_path), voices)
    assert torch.equal(again.weight, voice.weight) and again.dims == 3


def test_clips_without_a_label_do_not_count(recipe):
    torch.manual_seed(0)
    task = recipe("tasks").Labels(6, 3)
    vectors, labels = torch.randn(5, 6), torch.tensor([0, 2, -1, 1, -1])
    known = labels >= 0
    assert torch.isfinite(task(vectors, labels)[0])
    task.eval()
    part = task(vectors[known], labels[known])[0]
    assert torch.allclose(task(vectors, labels)[0], part)
    none, accuracy = task(vectors, torch.full((5,), -1))
    assert none == 0 and accuracy is None


def test_nothing_of_the_grids_tests_is_in_pretraining(recipe):
    """Neither the timbres of its other splits nor any of its sentences."""
    pytest.importorskip("espeakng_loader")
    prepare, grids = recipe("mini_prepare"), recipe("interventional_prepare")
    voices = read_voices(VOICES_CSV)
    synthesizer = prepare.WarpedSynthesizer()
    speakers = prepare.draw_speakers(synthesizer, 200, random.Random(1))
    assert len({voice.ID for voice in speakers}) == 200
    seed, counts = prepare.GRID_SEED, prepare.GRID_VOICES
    grid = grids.split_voices(voices, counts, seed)
    held_out = {v.variant for v in grid["valid"] + grid["test"]}
    used = {voice.variant for voice in speakers}
    assert not held_out & used and "mike2" not in used  # Mike is held out
    assert {v.variant for v in grid["train"]} < used
    said = grids.split_sentences(prepare.GRID_SENTENCES, seed).values()
    known = {text for part in said for text in part.values()}
    new = set(prepare.new_sentences(300, seed).values())
    assert new and not known & new
    # That is the default grid.
    options = {f"n_{split}_voices": n for split, n in counts.items()}
    for split, n in prepare.GRID_SENTENCES.items():
        options[f"n_{split}_sentences"] = n
    options["grid_seed"] = seed
    default = "recipes/InterventionalTTS/post-training/hparams/interventional"
    for path in (RECIPE / "hparams/evaluate.yaml", ROOT / f"{default}.yaml"):
        text = path.read_text()
        assert all(f"\n{key}: {n}\n" in text for key, n in options.items())


def test_a_speakers_rate_and_warp_are_heard(recipe):
    pytest.importorskip("espeakng_loader")
    prepare = recipe("mini_prepare")

    def seconds(rate, warp):
        said = {"rate": rate, "warp": warp}
        voice = prepare.WarpedVoice("a", "f3", "en-us", **said)
        text = "A quiet evening."
        samples, made = prepare.WarpedSynthesizer().synthesize(text, voice)
        return len(samples) / made

    assert seconds(120, 1.0) / seconds(220, 1.0) > 1.4
    ratio = seconds(120, 1.0) / seconds(120, 1.18)
    assert ratio == pytest.approx(1.18, abs=0.01)


def test_made_up_words_are_distinct_and_of_all_languages(recipe):
    prepare = recipe("mini_prepare")
    words = prepare.make_words(80, random.Random(1))
    assert len(set(words.values())) == 80
    languages = {name.rpartition("-")[0] for name in words}
    assert languages == set(prepare.LANGUAGES)
    assert all(re.match("[ء-ي]+$", words[w]) for w in words if w[:2] == "ar")
