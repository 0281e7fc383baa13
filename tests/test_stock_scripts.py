"""SpeechBrain's unchanged scripts with the YAML files of this package.

Runs with ``pytest -m stock`` where SPEECHBRAIN_ROOT names a checkout.
"""

import csv
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import voiced
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.encoder import CategoricalEncoder
from test_encoders import save_ecapa
from test_stock_yaml import YAMLS, build_export

from speechbrain_ext.dataio.manifest import load_manifest, read_audio
from speechbrain_ext.evaluation.backends import PldaBackend
from speechbrain_ext.evaluation.verification import (
    equal_error_rate,
    min_dcf,
    read_trials,
)
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.lobes.encoders import load_encoder

SPEECHBRAIN = os.environ.get("SPEECHBRAIN_ROOT")
pytestmark = [
    pytest.mark.stock,
    pytest.mark.skipif(
        not SPEECHBRAIN,
        reason="SPEECHBRAIN_ROOT does not name a SpeechBrain checkout",
    ),
]
WORDS = "yes no up down left right on off stop go".split()


def run(script, yaml, *options):
    """Run a script in its folder; what it printed."""
    script = Path(SPEECHBRAIN).resolve() / "recipes" / script
    done = subprocess.run(
        [sys.executable, script.name, str(yaml), "--device=cpu", *options],
        cwd=script.parent,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def verify(name, *options, yaml=None):
    return run(
        f"VoxCeleb/SpeakerRec/speaker_verification_{name}.py",
        yaml or YAMLS[name],
        *options,
    )


def logged(printed, name):
    """The last value that a script logged under a name."""
    return float(re.findall(rf"{name}=([\d.]+)", printed)[-1])


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Random projections of log-mel statistics."""
    folder = tmp_path_factory.mktemp("export") / "export"
    return build_export(folder, load_encoder("log_mel"))


@pytest.fixture(scope="module")
def model(export):
    return SubspaceEncoder.from_hparams(
        source=str(export), run_opts={"device": "cpu"}
    )


@pytest.fixture(scope="module")
def voxceleb(tmp_path_factory):
    """Ten speakers to train on, five in the trials, short and long clips."""
    folder = tmp_path_factory.mktemp("voxceleb")
    utterances = []
    for speaker in range(15):
        for take in range(4):
            trained = speaker < 10
            key = f"id{speaker:05}/session{take % 2}/{take:05}"
            seconds = 3.2 if trained else 0.5 + 0.2 * take
            path = folder / "wav" / f"{key}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            # One pitch a speaker, two contents.
            wave = voiced(speaker % 5, take % 2, 10 * speaker + take, seconds)
            soundfile.write(path, wave, 16000)
            if not trained:
                utterances.append((speaker, f"{key}.wav"))
    lines = [
        f"{int(one == other)} {a} {b}"
        for i, (one, a) in enumerate(utterances)
        for other, b in utterances[i + 1 :]
    ]
    (folder / "trials.txt").write_text("\n".join(lines) + "\n")
    return folder


def folders(voxceleb, work):
    return [
        f"--data_folder={voxceleb}",
        f"--verification_file={voxceleb / 'trials.txt'}",
        f"--output_folder={work}",
    ]


def read_scores(work):
    rows = [l.split() for l in (work / "scores.txt").read_text().splitlines()]
    return (
        [(enrol, test) for enrol, test, _, _ in rows],
        [int(label) for _, _, label, _ in rows],
        [float(score) for _, _, _, score in rows],
    )


def check_rates(printed, scores, labels):
    """The rates that the script found against ours on the same scores."""
    step = 100 / min(sum(labels), len(labels) - sum(labels))
    eer = 100 * equal_error_rate(scores, labels)[0]
    assert abs(logged(printed, r"EER\(%\)") - eer) <= step + 1e-4
    cost = 100 * min_dcf(scores, labels, normalize=False)
    # The cost of the script's threshold, which is one of some few.
    assert logged(printed, "(?:minDCF|min_dcf)") == pytest.approx(cost, abs=0.1)
    assert eer < 50


def test_cosine(voxceleb, export, model, tmp_path):
    printed = verify(
        "cosine", *folders(voxceleb, tmp_path), f"--export_folder={export}"
    )
    pairs, labels, scores = read_scores(tmp_path)
    assert len(pairs) == 20 * 19 // 2 and sum(labels) == 5 * 6
    check_rates(printed, scores, labels)
    # Batches of eight with padding there, one at a time here.
    vectors = {
        key: model.encode_file(voxceleb / f"wav/{key}.wav", "speaker")[0, 0]
        for key in {key for pair in pairs for key in pair}
    }
    for (a, b), score in zip(pairs, scores):
        expected = torch.cosine_similarity(vectors[a], vectors[b], dim=0)
        assert score == pytest.approx(expected.item(), abs=1e-4)


def test_score_normalisation(voxceleb, export, tmp_path):
    text = YAMLS["cosine"].read_text(encoding="utf-8")
    text = text.replace("# score_norm:", "score_norm:")
    text = text.replace("# cohort_size: 20000", "cohort_size: 10")
    (tmp_path / "s_norm.yaml").write_text(text, encoding="utf-8")
    printed = verify(
        "cosine",
        *folders(voxceleb, tmp_path / "out"),
        f"--export_folder={export}",
        yaml=tmp_path / "s_norm.yaml",
    )
    _, labels, scores = read_scores(tmp_path / "out")
    check_rates(printed, scores, labels)
    assert max(map(abs, scores)) > 1  # no cosines


@pytest.mark.parametrize("row", ["pooled", "ecapa", "target", "content"])
def test_comparison_rows(row, voxceleb, export, small_grid, tmp_path):
    options = {
        "pooled": [f"--export_folder={export}", "--system=pooled"],
        "ecapa": [
            "--system=pooled",
            "--encoder=ecapa",
            f"--encoder_source={save_ecapa(tmp_path / 'ecapa')}",
        ],
        "target": [
            f"--export_folder={export}",
            "--domain_statistics=target",
            f"--target_manifest={small_grid / 'manifest.csv'}",
        ],
        "content": [f"--export_folder={export}", "--subspace=content"],
    }
    work = tmp_path / "out"
    printed = verify("cosine", *folders(voxceleb, work), *options[row])
    _, labels, scores = read_scores(work)
    check_rates(printed, scores, labels)


def test_plda(voxceleb, export, model, tmp_path):
    printed = verify(
        "plda",
        *folders(voxceleb, tmp_path),
        f"--export_folder={export}",
        "--seg_dur=0.5",
        "--rank_f=5",
        "--compute_plda={scaling_factor: 1}",  # as PldaBackend
    )
    # The embeddings that the script stored are ours.
    stored = {}
    for name in ("VoxCeleb1_train_embeddings_stat_obj", "stat_enrol"):
        with open(tmp_path / f"save/{name}.pkl", "rb") as file:
            stored[name] = pickle.load(file)
    train, enrol = stored.values()
    segments = load_manifest(tmp_path / "save/train.csv").data
    for key, vector in list(zip(train.segset, train.stat1))[::40]:
        row = segments[key]
        wav = read_audio(key, row["wav"], row["start"], row["stop"])
        ours = model.encode_batch(wav, subspace="speaker")[0, 0]
        assert ours.tolist() == pytest.approx(vector.tolist(), abs=1e-4)

    keys = list(enrol.segset)
    vectors = list(enrol.stat1)
    with open(tmp_path / "save/stat_test.pkl", "rb") as file:
        test = pickle.load(file)
    for key, vector in zip(test.segset, test.stat1):
        if key not in keys:
            keys.append(key)
            vectors.append(vector)
    trials = read_trials(voxceleb / "trials.txt", keys)
    plda = PldaBackend(rank=5, length_normalise=False)
    plda.fit(train.stat1, list(train.modelset))
    scores = plda.score(np.array(vectors), trials.enrol, trials.test)
    check_rates(printed, scores, trials.label.tolist())


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Ten words and two unknown ones, 16 speakers, and noise."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "train-synth").mkdir()  # to the script: already unpacked
    for content, word in enumerate([*WORDS, "bed", "cat"]):
        (folder / word).mkdir()
        for speaker in range(16):
            # Some clips are shorter than a second, as in the corpus.
            seconds = 0.7 if (speaker + content) % 4 == 0 else 1.0
            wave = voiced(speaker % 8, content, speaker, seconds)
            path = folder / word / f"{speaker:08x}_nohash_0.wav"
            soundfile.write(path, wave, 16000)
    (folder / "_background_noise_").mkdir()
    noise = 0.1 * torch.randn(40000, generator=torch.manual_seed(3))
    soundfile.write(folder / "_background_noise_/hiss.wav", noise, 16000)
    return folder


def test_keywords(commands, export, model, tmp_path):
    pytest.importorskip("pandas", reason="prepare_GSC.py needs pandas")
    options = {
        "data_folder": str(commands),
        "output_folder": str(tmp_path),
        "export_folder": str(export),
        "number_of_epochs": 15,
        "validation_percentage": 25,
        "testing_percentage": 25,
        # The script counts the unknown words of the whole corpus.
        "percentage_unknown": 60000,
        "lr": 0.02,
    }
    run(
        "Google-speech-commands/train.py",
        YAMLS["keywords"],
        *[f"--{key}={value}" for key, value in options.items()],
        "--dataloader_options={num_workers: 0}",
        "--noprogressbar",
    )
    log = (tmp_path / "train_log.txt").read_text()
    error = float(re.search(r"test ErrorRate: (\S+)", log)[1])

    # Its classifier on our embeddings, each clip alone and unpadded.
    with open(YAMLS["keywords"], encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, options)
    hparams["checkpointer"].recover_if_possible(min_key="ErrorRate")
    classifier = hparams["classifier"].eval()
    labels = CategoricalEncoder()
    labels.load(tmp_path / "save/label_encoder.txt")
    wrong = []
    with open(tmp_path / "test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        stop = min(int(row["stop"]), soundfile.info(row["wav"]).frames)
        wav = read_audio(row["ID"], row["wav"], int(row["start"]), stop)
        embedding = model.encode_batch(wav, subspace="content")
        best = classifier(embedding).argmax().item()
        wrong.append(labels.ind2lab[best] != row["command"])
    assert any(row["command"] == "unknown" for row in rows)
    assert any(row["command"] == "silence" for row in rows)
    assert error == pytest.approx(sum(wrong) / len(wrong), abs=0.006)
    assert error < 0.75  # chance: 0.92
