"""SpeechBrain's unchanged scripts with the YAML files of this package.

Runs with ``pytest -m stock`` where SPEECHBRAIN_ROOT names a checkout.
"""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import voiced
from helpers import TRAININGS, YAMLS, build_export
from hyperpyyaml import load_hyperpyyaml
from tiny_models import save_ecapa, save_tiny

from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.dataio.manifest import load_manifest
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.stock import trained_embedding
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.metrics.verification import equal_error_rate, min_dcf
from speechbrain_ext.utils.files import read_csv

SPEECHBRAIN = os.environ.get("SPEECHBRAIN_ROOT")
WHY = "SPEECHBRAIN_ROOT does not name a SpeechBrain checkout"
pytestmark = [
    pytest.mark.stock,
    pytest.mark.skipif(not SPEECHBRAIN, reason=WHY),
]
NORMS = ("s-norm", "z-norm", "t-norm")
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


def verify(name, voxceleb, work, *options, yaml=None):
    return run(
        f"VoxCeleb/SpeakerRec/speaker_verification_{name}.py",
        yaml or YAMLS[name],
        f"--data_folder={voxceleb}",
        f"--verification_file={voxceleb / 'trials.txt'}",
        f"--output_folder={work}",
        *options,
    )


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


def read_row(row):
    """The segment [1, time] of a row of a manifest that a script wrote."""
    start, stop = int(row["start"]), int(row["stop"])
    return read_audio(row["ID"], row["wav"], start, stop)[None]


def logged(name, printed):
    """The last number that a script printed under a name."""
    return float(re.findall(rf"{name}=([\d.]+)", printed)[-1])


def check_rates(printed, scores, labels):
    """The rates that the script found against ours on the same scores.

    Returns
    -------
    float
        The equal error rate in percent. Of 40 clips nothing generalises that
        a network learns, so that after a training it says nothing.
    """
    step = 100 / min(sum(labels), len(labels) - sum(labels))
    eer = 100 * equal_error_rate(scores, labels)[0]
    assert abs(logged(r"EER\(%\)", printed) - eer) <= step + 1e-4
    cost = 100 * min_dcf(scores, labels, normalize=False)
    # The cost of the script's threshold, which is one of some few.
    assert logged("(?:minDCF|min_dcf)", printed) == pytest.approx(cost, abs=0.1)
    return eer


@pytest.mark.parametrize(
    "row",
    ["subspace", *NORMS, "pooled", "ecapa", "target", "content"],
)
def test_cosine(row, voxceleb, export, model, small_grid, tmp_path):
    work, yaml = tmp_path / "out", YAMLS["cosine"]
    options = [f"--export_folder={export}"]
    if row in NORMS:
        text = yaml.read_text(encoding="utf-8")
        text = text.replace("# score_norm: s-norm", f"score_norm: {row}")
        text = text.replace("# cohort_size: 20000", "cohort_size: 10")
        yaml = tmp_path / "s_norm.yaml"
        yaml.write_text(text, encoding="utf-8")
    elif row == "pooled":
        options.append("--system=pooled")
    elif row == "ecapa":
        options = ["--system=pooled", "--encoder=ecapa"]
        options.append(f"--encoder_source={save_ecapa(tmp_path / 'ecapa')}")
    elif row == "target":
        options.append("--domain_statistics=target")
        options.append(f"--target_manifest={small_grid / 'manifest.csv'}")
    elif row == "content":
        options.append("--subspace=content")
    printed = verify("cosine", voxceleb, work, *options, yaml=yaml)
    lines = (work / "scores.txt").read_text().splitlines()
    enrol, test, labels, scores = zip(*(line.split() for line in lines))
    labels, scores = [*map(int, labels)], [*map(float, scores)]
    assert len(labels) == 20 * 19 // 2 and sum(labels) == 5 * 6
    assert check_rates(printed, scores, labels) < 50
    assert (max(map(abs, scores)) > 1.01) == (row in NORMS)  # not cosines
    if row not in ("subspace", *NORMS):
        return
    # Batches of eight with padding there, one at a time here.
    vectors = {
        key: model.encode_file(voxceleb / f"wav/{key}.wav", "speaker")[0, 0]
        for key in {*enrol, *test}
    }
    cohort = torch.stack(
        [
            model.encode_batch(read_row(row), subspace="speaker")[0, 0]
            for row in read_csv(work / "save/train.csv")
        ]
    )

    def normalised(score, key):
        """By the ten nearest of the cohort."""
        against = torch.cosine_similarity(vectors[key][None], cohort)
        std, mean = torch.std_mean(against.topk(10).values)
        return (score - mean) / std

    for a, b, score in zip(enrol, test, scores):
        cosine = torch.cosine_similarity(vectors[a], vectors[b], dim=0)
        expected = {
            "subspace": cosine,
            "z-norm": normalised(cosine, a),
            "t-norm": normalised(cosine, b),
            "s-norm": (normalised(cosine, a) + normalised(cosine, b)) / 2,
        }[row]
        assert score == pytest.approx(expected.item(), rel=1e-3, abs=1e-3)


def test_plda(voxceleb, export, model, tmp_path):
    own = [f"--export_folder={export}", "--seg_dur=0.5", "--rank_f=5"]
    own += ["--compute_plda={scaling_factor: 1}"]
    printed = verify("plda", voxceleb, tmp_path, *own)
    # The embeddings that the script stored are ours.
    names = "VoxCeleb1_train_embeddings_stat_obj stat_enrol stat_test".split()
    train, enrol, test = (
        pickle.loads((tmp_path / f"save/{name}.pkl").read_bytes())
        for name in names
    )
    segments = load_manifest(tmp_path / "save/train.csv").data
    for key, vector in list(zip(train.segset, train.stat1))[::40]:
        row = segments[key]
        wav = read_audio(key, row["wav"], row["start"], row["stop"])
        ours = model.encode_batch(wav, subspace="speaker")[0, 0]
        assert ours.tolist() == pytest.approx(vector.tolist(), abs=1e-4)

    # Its scores are those of SpeechBrain's PLDA on them, which tells speakers.
    assert logged(r"EER\(%\)", printed) < 50


SMALL_ECAPA = (
    "--embedding_model={model: {channels: [16, 16, 16, 16, 48], "
    "res2net_scale: 4, se_channels: 8, attention_channels: 8}}"
)


@pytest.mark.parametrize("row", ["subspace", "wavlm", "mini"])
def test_training(row, voxceleb, export, model, tmp_path):
    """It learns, and what it saved gives its own loss and errors again."""
    work = tmp_path / "trained"
    if row == "subspace":
        yaml, saved = TRAININGS["subspace"], "projection"
        options = [f"--export_folder={export}"]
    else:
        yaml, saved = TRAININGS["frames"], "trained"
        options = ["--encoder=mini", SMALL_ECAPA]
    if row == "wavlm":
        source = save_tiny(tmp_path / "wavlm", "wavlm")
        options[0] = f"--encoder=wavlm_base_plus --encoder_source={source}"
        options = [*options[0].split(), SMALL_ECAPA]
    printed = run(
        "VoxCeleb/SpeakerRec/train_speaker_embeddings.py",
        yaml,
        *(f"--data_folder={voxceleb}", f"--output_folder={work}"),
        f"--verification_file={voxceleb / 'trials.txt'}",
        *("--out_n_neurons=10", "--emb_dim=16", "--number_of_epochs=8"),
        *("--split_ratio=[80, 20]", "--batch_size=8", "--random_chunk=False"),
        *("--lr=0.02", "--step_size=16", "--train_logger={precision: 6}"),
        *("--dataloader_options={num_workers: 0}", "--noprogressbar"),
        *options,
    )
    assert "Traceback" not in printed
    log = (work / "train_log.txt").read_text()
    losses = [*map(float, re.findall(r"train loss: ([\d.]+)", log))]
    assert len(losses) == 8 and losses[-1] < 0.8 * losses[0]

    # The checkpoint is small, and goes with the encoder as it was.
    with open(work / "hyperparams.yaml", encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file)
    checkpointer = hparams["checkpointer"]
    checkpoint = checkpointer.recover_if_possible(min_key="ErrorRate")
    state = torch.load(checkpoint.path / f"{saved}.ckpt")
    names = {name.split(".")[0] for name in state}
    assert names <= {"norm", "linear", "mixture", "model"}
    labels, rows = CategoricalEncoder(), read_csv(work / "save/dev.csv")
    labels.load(work / "save/label_encoder.txt")
    embed = trained_embedding(work)
    embeddings = torch.cat([embed(read_row(one)) for one in rows])
    outputs = hparams["classifier"].eval()(embeddings)
    known = labels.encode_sequence_torch([r["spk_id"] for r in rows])[:, None]
    loss = hparams["compute_cost"](outputs, known, torch.ones(len(rows)))
    wrong = (outputs.argmax(dim=-1) != known).float().mean().item()
    found = re.findall(r"valid loss: ([\d.]+), valid ErrorRate: (\S+)", log)
    found = [*map(float, found[hparams["epoch_counter"].current - 1])]
    assert [loss.item(), wrong] == pytest.approx(found, abs=1e-3)
    assert len(rows) == 8 and wrong < 0.9
    if row == "subspace":
        wav = torch.randn(1, 9000)
        frozen = embed.embedding["frozen"](wav)
        assert torch.equal(frozen, model.encode_batch(wav, subspace="speaker"))

    # The other scripts take it.
    options = [f"--export_folder={work}", "--system=trained"]
    printed = verify("cosine", voxceleb, tmp_path / "scored", *options)
    lines = (tmp_path / "scored/scores.txt").read_text().splitlines()
    enrol, test, labels, scores = zip(*(line.split() for line in lines))
    check_rates(printed, [*map(float, scores)], [*map(int, labels)])
    for a, b, score in list(zip(enrol, test, scores))[::30]:
        vectors = [
            embed(read_audio(key, voxceleb / f"wav/{key}.wav")[None])[0, 0]
            for key in (a, b)
        ]
        expected = torch.cosine_similarity(*vectors, dim=0).item()
        assert float(score) == pytest.approx(expected, abs=1e-4)


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
    given = [f"--{key}={value}" for key, value in options.items()]
    given += ["--dataloader_options={num_workers: 0}", "--noprogressbar"]
    run("Google-speech-commands/train.py", YAMLS["keywords"], *given)
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
    rows = read_csv(tmp_path / "test.csv")
    for row in rows:
        stop = min(int(row["stop"]), soundfile.info(row["wav"]).frames)
        wav = read_audio(row["ID"], row["wav"], int(row["start"]), stop)
        embedding = model.encode_batch(wav, subspace="content")
        best = classifier(embedding).argmax().item()
        wrong.append(labels.ind2lab[best] != row["command"])
    assert {"unknown", "silence"} <= {row["command"] for row in rows}
    assert error == pytest.approx(sum(wrong) / len(wrong), abs=0.006)
    assert error < 0.75  # chance: 0.92
