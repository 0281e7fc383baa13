"""The mini encoder that comes with the package, and its pre-training."""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT, voiced
from safetensors.torch import load_file

from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.models import check_sums, packaged_model
from speechbrain_ext.utils.errors import InputError

RECIPE = ROOT / "recipes/MiniEncoder/pretraining"


@pytest.fixture(scope="module")
def mini():
    return load_encoder("mini")


@pytest.fixture
def recipe(monkeypatch):
    """Makes the modules of the recipe importable, for one test."""
    monkeypatch.syspath_prepend(str(RECIPE))
    yield
    names = ("clips", "tasks", "teacher", "voices", "train", "mini_prepare")
    for name in names:
        sys.modules.pop(name, None)


# The packaged weights ----------------------------------------------------


def test_weights_are_small_half_precision_and_the_published_ones(tmp_path):
    folder = Path(packaged_model("mini"))
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert sum(weight.numel() for weight in weights.values()) <= 5_000_000
    assert (folder / "model.safetensors").stat().st_size <= 10_000_000
    copied = shutil.copytree(folder, tmp_path / "mini")
    check_sums(copied)
    with open(copied / "model.safetensors", "r+b") as file:
        file.seek(5_000_000)
        byte = file.read(1)
        file.seek(5_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(InputError, match="model.safetensors.*damaged"):
        check_sums(copied)


def test_hidden_states_through_speechbrains_wrapper(mini):
    assert (mini.n_layers, mini.dim) == (5, 288)
    assert type(mini.network).__module__.endswith("huggingface.wav2vec2")
    vectors = mini(torch.from_numpy(voiced(1, 2))[None])[0]
    # The layers are not one and the same, and none is dead.
    assert torch.corrcoef(vectors).triu(1).max() < 0.999
    assert vectors.std(dim=1).min() > 0.01


def test_neighbours_and_padding_do_not_change_a_vector(mini):
    assert mini.handles_padding  # runs in padded batches with a mask
    seconds = (0.31, 1.7, 0.06, 1.0)
    wavs = [torch.from_numpy(voiced(2, 1, 0, s)) for s in seconds]
    alone = torch.cat([mini(wav[None]) for wav in wavs])
    padded = torch.nn.utils.rnn.pad_sequence(wavs, True)
    lengths = torch.tensor([len(wav) for wav in wavs]) / padded.shape[1]
    together = mini(padded, lengths)
    scale = alone.abs().mean(dim=(0, 2), keepdim=True)
    assert ((together - alone).abs() / scale).max() < 1e-4


def test_last_state_is_normalised_in_every_version_of_transformers(mini):
    model = mini.network.model
    assert model.config.tie_last_hidden_states is True
    with torch.no_grad():
        output = model(torch.randn(1, 8000), output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


# The recipe --------------------------------------------------------------


def tiny_teacher(folder, dim=32):
    """A Moonshine model with random weights."""
    config = transformers.MoonshineConfig(
        vocab_size=8,
        hidden_size=dim,
        intermediate_size=64,
        encoder_num_hidden_layers=3,
        decoder_num_hidden_layers=1,
        encoder_num_attention_heads=4,
        decoder_num_attention_heads=4,
        encoder_num_key_value_heads=4,
        decoder_num_key_value_heads=4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    transformers.MoonshineModel(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=False, return_attention_mask=True
    ).save_pretrained(folder)
    return folder


def pretrain(folder, teacher, *flags):
    """Run the recipe as its README says, on a small slice."""
    return subprocess.run(
        [
            *(sys.executable, RECIPE / "train.py"),
            RECIPE / "hparams/train.yaml",
            *("--teacher_source", teacher, "--data_folder", folder / "data"),
            *("--output_folder", folder / "out", "--device=cpu"),
            *("--target_folder", folder / "targets", "--width=32"),
            *("--n_speakers=3", "--n_sentences=2", "--n_words=4"),
            *("--n_vocabulary=8", "--batch_seconds=4", "--valid_share=0.2"),
            *("--teacher_layers=[0, 1, 3]", "--copied_layers=[0, 2]"),
            "--config={num_hidden_layers: 2, num_attention_heads: 4, "
            "intermediate_size: 64, conv_dim: [32, 24, 32], "
            "num_conv_pos_embeddings: 8, num_conv_pos_embedding_groups: 4}",
            "--tasks={n_layers: 3, layers: {word: 2}}",
            *("--warmup_steps=2", "--max_lr=0.003", *flags),
        ],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_slice_of_the_pretraining_runs_and_goes_on(tmp_path, small_grid):
    """Synthesis, teacher, training, a second call that goes on, the model."""
    pytest.importorskip("espeakng_loader")
    teacher = tiny_teacher(tmp_path / "teacher")
    recordings = (
        f"--recordings=[{{folder: {small_grid}, split: train, repeat: 2}}]"
    )
    first = pretrain(tmp_path, teacher, recordings, "--number_of_epochs=1")
    assert first.returncode == 0, first.stderr
    targets = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "targets").glob("*-*")
        if path.suffix in (".npy", ".pt")
    }
    again = pretrain(tmp_path, teacher, recordings, "--number_of_epochs=3")
    assert again.returncode == 0, again.stderr
    assert len(targets) == 2  # frames and voices
    assert {p: p.stat().st_mtime_ns for p in targets} == targets
    often = recordings.replace("repeat: 2", "repeat: 3")
    for flags, key in (
        ([recordings, "--voice={shrinkage: 0.1}"], "voice"),
        ([often], "repeats"),
    ):
        other = pretrain(tmp_path, teacher, *flags)
        assert other.returncode != 0
        assert f"holds a run with another {key}" in other.stderr

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


def test_evaluation_gives_a_row_a_layer(tmp_path, small_grid):
    """The command of the README, on a small grid in place of the default."""
    run = subprocess.run(
        [
            *(sys.executable, RECIPE / "evaluate.py"),
            RECIPE / "hparams/evaluate.yaml",
            f"--data_folder={small_grid}",
            f"--output_folder={tmp_path}/out",
            f"--cache_folder={tmp_path}/features",
            *("--skip_prep=True", "--min_clips=2"),
            f"--keywords={{words: {small_grid}}}",
            f"--speakers={{voices: {small_grid}}}",
            "--encoders={mini: null}",
            "--unheard_splits=[test]",
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    report = (tmp_path / "out/report.txt").read_text()
    rows = re.findall(r"^log_mel +0 +(.*)$", report, re.M)
    numbers = [[float(n) for n in row.split()] for row in rows]
    words, voices = numbers
    assert len(words) == 6 and len(voices) == 4  # pooled and post-trained
    assert words[0] > 50  # easy; chance is 17 %
    assert all(0 <= number <= 100 for number in words + voices)
    speed = re.search(r"^log_mel +0\.00 +0\.0 +(\d+) +1$", report, re.M)
    assert int(speed[1]) > 1


def test_crops_and_the_teachers_frames_stay_aligned(tmp_path, recipe):
    """Frame k of a clip starts at sample 384 k, in crops too."""
    import soundfile
    from clips import FRAME, Clips, Crops, n_frames
    from conftest import write_manifest

    wave = np.arange(30_000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    rows = [{"ID": "a", "wav": "a.wav", "speaker": "x", "word": ""}]
    write_manifest(tmp_path / "manifest.csv", rows)
    clips = Clips(tmp_path, [{"folder": tmp_path, "repeat": 3}])
    assert len(clips) == 2 and clips.speakers[0] == 0
    assert clips.speakers[1] == clips.words[1] == -1  # labels left unused
    assert clips.lengths.tolist() == [30_720, 30_000]
    assert clips.repeats.tolist() == [1, 3]
    assert len(clips.speech(0)) == 30_000  # without what makes it longer
    frames = np.arange(clips.frame_starts[-1])[:, None, None]
    voices = torch.zeros(2, 1)
    crops = Crops(clips, frames, voices, None, [0, 1, 1], 1.0, 0.0)
    offsets = set()
    for crops.epoch in range(8):
        item = crops[1]
        first = round(item["wav"][0].item() * 32768)
        offsets.add(first)
        assert first % FRAME == 0 and len(item["wav"]) == 16000
        wanted = clips.frame_starts[1] + first // FRAME
        assert item["targets"].flatten().tolist() == list(
            range(wanted, wanted + n_frames(16000))
        )
    assert len(offsets) > 2
    # A clip that is repeated gives other crops.
    assert not torch.equal(crops[1]["wav"], crops[2]["wav"])
    network = load_encoder("mini").network.model
    for length in (895, 1278, 1279, 16000):
        made = network._get_feat_extract_output_lengths(length)
        assert n_frames(length) == int(made)


def test_distillation_ignores_padding_and_is_zero_for_the_teacher(recipe):
    from tasks import Distillation

    loss = Distillation(4, 2)
    targets = 3 + 2 * torch.randn(2, 5, 2, 4)
    loss.fit_statistics(targets.flatten(0, 1), targets.mean(dim=1))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
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
    from tasks import Distillation

    torch.manual_seed(0)
    loss = Distillation(4, 1)
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
    from tasks import Regression

    torch.manual_seed(0)
    task = Regression(6, 2)
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
    import soundfile
    from clips import Clips
    from conftest import write_manifest
    from train import load_crops

    for name, speaker, length in (("made", 1, 8000), ("real", 2, 9000)):
        (tmp_path / name).mkdir()
        row = {"ID": name, "wav": "a.wav", "speaker": "x", "word": "y"}
        wave = voiced(speaker, 1, 0, length / 16000)
        soundfile.write(tmp_path / name / "a.wav", wave, 16000)
        write_manifest(tmp_path / name / "manifest.csv", [row])
    real = {"folder": str(tmp_path / "real")}
    assert Clips(tmp_path / "made", [real]).words.tolist() == [0, -1]
    for option in ({"repeat": 0}, {"repeat": None}, {"repeats": 3}):
        with pytest.raises(InputError, match="expected a folder, and"):
            Clips(tmp_path / "made", [real | option])

    class Known:
        def targets(self, clips, folder):
            return clips

        def fit(self, clips, folder):
            return None

    options = {"teacher": Known(), "voice": Known(), "target_folder": None}
    options |= {
        "seed": 1,
        "valid_share": 0.0,
        "crops": lambda *a, numbers: numbers,
    }
    options |= {"data_folder": tmp_path / "made"}
    options["recordings"] = [real | {"repeat": 5}, real | {"repeat": 2}]
    clips, train, valid = load_crops(options)
    # At least two validate, once each; the third is repeated.
    assert len(set(valid)) == len(valid) == 2 and not set(train) & set(valid)
    assert len(set(train)) == 1
    assert len(train) == clips.repeats[train[0]]


def test_voice_tells_speakers_apart_and_needs_no_label(tmp_path, recipe):
    """As heard without a channel it is that of the clip as recorded."""
    import soundfile
    from clips import Clips
    from conftest import write_manifest
    from voices import VoiceTargets

    for part, speakers in (("made", range(4)), ("real", range(4, 7))):
        rows = []
        (tmp_path / part).mkdir()
        for speaker in speakers:
            for content in range(6):
                name = f"{speaker}-{content}"
                wave = voiced(speaker, content)
                soundfile.write(tmp_path / part / f"{name}.wav", wave, 16000)
                row = {"ID": name, "wav": f"{name}.wav", "word": ""}
                rows.append(row | {"speaker": str(speaker)})
        write_manifest(tmp_path / part / "manifest.csv", rows)
    clips = Clips(tmp_path / "made", [{"folder": tmp_path / "real"}])
    voice = VoiceTargets(dims=10)
    voices = voice.fit(clips, tmp_path)
    assert voices.shape == (42, 3) and voice.dims == 3
    assert voices[:24].square().mean().item() == pytest.approx(1)
    groups = voices[:24].reshape(4, 6, 3)
    within = groups.var(dim=1).mean()
    assert within < 0.1 * groups.mean(dim=1).var(dim=0).mean()
    assert voices[24:].reshape(3, 6, 3).mean(dim=1).std(dim=0).min() > 0.1
    wav = clips.speech(30)[None]
    heard = voice(wav, torch.tensor([wav.shape[1]]))
    assert torch.allclose(heard[0], voices[30], atol=1e-5)
    again = VoiceTargets(dims=10)  # from the file
    assert torch.equal(again.fit(clips, tmp_path), voices)
    assert torch.equal(again.weight, voice.weight) and again.dims == 3


def test_clips_without_a_label_do_not_count(recipe):
    from tasks import Labels

    torch.manual_seed(0)
    task = Labels(6, 3)
    vectors = torch.randn(5, 6)
    labels = torch.tensor([0, 2, -1, 1, -1])
    known = labels >= 0
    loss, _ = task(vectors, labels)
    task = task.eval()
    assert torch.isfinite(loss)
    part = task(vectors[known], labels[known])[0]
    assert torch.allclose(task(vectors, labels)[0], part)
    none, accuracy = task(vectors, torch.full((5,), -1))
    assert none == 0 and accuracy is None


def test_nothing_of_the_grids_tests_is_in_pretraining(recipe):
    """Neither the timbres of its other splits nor any of its sentences."""
    pytest.importorskip("espeakng_loader")
    import mini_prepare
    from interventional_prepare import split_sentences, split_voices

    from speechbrain_ext.synthesis.espeak import VOICES_CSV, read_voices

    voices = read_voices(VOICES_CSV)
    timbres = mini_prepare.WarpedSynthesizer().timbres()
    speakers = mini_prepare.draw_speakers(
        voices, timbres, 200, random.Random(1)
    )
    assert len({voice.ID for voice in speakers}) == 200
    counts = {"train": 64, "valid": 8, "test": 16}
    grid = split_voices(voices, counts, 1986)
    held_out = {v.variant for v in grid["valid"] + grid["test"]}
    used = {voice.variant for voice in speakers}
    assert not held_out & used and "mike2" not in used  # Mike is held out
    assert {v.variant for v in grid["train"]} < used
    counts = {"train": 64, "valid": 128, "test": 64}
    said = split_sentences(counts, 1986).values()
    known = {text for part in said for text in part.values()}
    assert not known & set(mini_prepare.new_sentences(300, 5).values())
    default = "recipes/InterventionalTTS/post-training/hparams/interventional"
    for path in (RECIPE / "hparams/evaluate.yaml", ROOT / f"{default}.yaml"):
        text = path.read_text()
        for split, count in mini_prepare.GRID_VOICES.items():
            assert f"n_{split}_voices: {count}\n" in text
        for split, count in mini_prepare.GRID_SENTENCES.items():
            assert f"n_{split}_sentences: {count}\n" in text
        assert f"grid_seed: {mini_prepare.GRID_SEED}\n" in text


def test_a_speakers_rate_and_warp_are_heard(recipe):
    pytest.importorskip("espeakng_loader")
    import mini_prepare

    synthesizer = mini_prepare.WarpedSynthesizer()
    seconds = {}
    for rate, warp in ((120, 1.0), (220, 1.0), (120, 1.18)):
        voice = mini_prepare.WarpedVoice(
            "a", "f3", "en-us", rate=rate, warp=warp
        )
        samples, made = synthesizer.synthesize("A quiet evening.", voice)
        seconds[rate, warp] = len(samples) / made
    slow = seconds[120, 1.0]
    assert slow / seconds[220, 1.0] > 1.4
    assert slow / seconds[120, 1.18] == pytest.approx(1.18, abs=0.01)


def test_made_up_words_are_distinct_and_of_all_languages(recipe):
    import mini_prepare

    words = mini_prepare.make_words(80, random.Random(1))
    assert len(set(words.values())) == 80
    languages = {name.rpartition("-")[0] for name in words}
    assert languages == set(mini_prepare.LANGUAGES)
    assert all(re.match("[ء-ي]+$", words[w]) for w in words if w[:2] == "ar")
