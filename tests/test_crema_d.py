"""CREMA-D's prepare script, and the recipe on a folder shaped like it."""

import csv
import doctest
import importlib.util
import json
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import soundfile
from conftest import ROOT, voiced

from speechbrain_ext.dataio.grid import Grid
from speechbrain_ext.evaluation.probes import leakage_report
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.utils.errors import InputError

RECIPE = ROOT / "recipes/CREMA-D"
ACTORS = [str(number) for number in range(1001, 1009)]
SENTENCES, EMOTIONS = ["DFA", "IEO", "TIE"], ["ANG", "HAP", "NEU"]
LEVELS = {("IEO", "ANG"): ["LO", "MD", "HI"], ("IEO", "HAP"): ["LO", "HI"]}
HOLES = ["1001_DFA_ANG_XX", "1004_TIE_NEU_XX", "1008_IEO_HAP_LO"]
FACTORS = ("speaker", "content", "emotion")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "crema_d_prepare", RECIPE / "post-training/crema_d_prepare.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clip(speaker, content, emotion, take):
    """A buzz that trembles as much as its emotion."""
    wave = voiced(speaker, content, take, seconds=0.6)
    time = np.arange(len(wave)) / 16000
    return wave * (1 + 0.45 * emotion * np.sin(50 * time)) / 2


def make_corpus(folder):
    """Eight actors, some takes and holes, in CREMA-D's layout."""
    (folder / "AudioWAV").mkdir(parents=True)
    with open(folder / "VideoDemographics.csv", "w") as file:
        file.write("ActorID,Age,Sex,Race,Ethnicity\n")
        for actor in ACTORS:
            sex = "Female" if int(actor) % 2 else "Male"
            file.write(f"{actor},30,{sex},Asian,Not Hispanic\n")
    for cell in product(range(8), range(3), range(3)):
        actor, content, emotion = cell
        named = (SENTENCES[content], EMOTIONS[emotion])
        for take, level in enumerate(LEVELS.get(named, ["XX"])):
            name = "_".join([ACTORS[actor], *named, level])
            if name not in HOLES:
                path = folder / f"AudioWAV/{name}.wav"
                soundfile.write(path, clip(*cell, take), 16000)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("crema") / "CREMA-D")


@pytest.fixture
def prepare(script, tmp_path):
    def run(folder, **options):
        manifest = tmp_path / options.pop("manifest", "manifest.csv")
        script.prepare_crema_d(folder, manifest, **options)
        with open(manifest, newline="") as file:
            return list(csv.DictReader(file))

    return run


def test_manifest(prepare, corpus):
    before = sorted(corpus.rglob("*"))
    rows = prepare(corpus)
    assert sorted(corpus.rglob("*")) == before  # nothing is written there
    assert list(rows[0]) == [
        *("ID", "wav", "duration", "speaker", "content", "emotion"),
        *("intensity", "gender", "split"),
    ]
    assert len({row["ID"] for row in rows}) == len(rows) == 8 * 12 - 3
    for row in rows:
        info = soundfile.info(corpus / row["wav"])
        assert float(row["duration"]) == pytest.approx(info.duration)
        parts = [row[f] for f in (*FACTORS, "intensity")]
        assert "_".join(parts) == row["ID"]
        odd = int(row["speaker"]) % 2
        assert row["gender"] == ("female" if odd else "male")
    # The takes of a cell are its levels of intensity; two cells are empty.
    grid = Grid({f: [row[f] for row in rows] for f in FACTORS})
    assert grid.shape == (8, 3, 3) and grid.n_cells == 72 - 2
    assert sorted(set(grid.takes)) == [1, 2, 3]


def test_actors_are_disjoint(prepare, corpus):
    drawn = []
    for number, seed in enumerate((1, 1, 2)):
        rows = prepare(
            corpus, seed=seed, ratios=(2, 1, 1), manifest=f"{number}.csv"
        )
        splits = {row["speaker"]: row["split"] for row in rows}
        # Each actor is in one split, and all sentences are in each.
        assert all(splits[r["speaker"]] == r["split"] for r in rows)
        for split, count in (("train", 4), ("valid", 2), ("test", 2)):
            part = [row for row in rows if row["split"] == split]
            assert len({row["speaker"] for row in part}) == count
            assert {row["content"] for row in part} == set(SENTENCES)
            assert {row["gender"] for row in part} == {"female", "male"}
        drawn.append(splits)
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_manifest_of_a_training_stays(prepare, corpus, tmp_path):
    rows = prepare(corpus)
    assert prepare(corpus) == rows
    before = (tmp_path / "manifest.csv").read_bytes()
    with pytest.raises(InputError, match="not overwritten"):
        prepare(corpus, seed=2)
    assert (tmp_path / "manifest.csv").read_bytes() == before


def test_sizes_of_the_real_corpus(script):
    """91 actors, 48 of them male."""
    genders = {f"{1001 + n}": "male" if n < 48 else "female" for n in range(91)}
    splits = script.split_speakers(genders)
    for gender, total in (("male", 48), ("female", 43)):
        own = [splits[s] for s in splits if genders[s] == gender]
        for split, share in (("train", 0.6), ("valid", 0.2), ("test", 0.2)):
            assert own.count(split) == pytest.approx(share * total, abs=1)


def test_odd_files(prepare, tmp_path, script, monkeypatch):
    """What the real corpus has too: silence, wrong lengths, other names."""
    folder = make_corpus(tmp_path / "odd")
    audio = folder / "AudioWAV"
    wave = clip(0, 0, 0, 0)
    for name, samples in (
        ("1001_TIE_ANG_XX", np.zeros(16000)),
        ("1001_TIE_HAP_XX", np.zeros(0)),
        ("1002_TIE_ANG_XX", wave[:1600]),
        ("1003_TIE_ANG_XX", np.tile(wave, 20)),
        ("1004_TIE_ANG_X", wave),
        ("notes", wave),
    ):
        soundfile.write(audio / f"{name}.wav", samples, 16000)
    (audio / "1004_TIE_ANG_XX.wav").unlink()
    lines = []
    monkeypatch.setattr(script.logger, "warning", lines.append)
    rows = {row["ID"]: row for row in prepare(folder)}
    assert len(rows) == 93 - 4
    assert rows["1004_TIE_ANG_X"]["intensity"] == "XX"
    text = "\n".join(lines)
    assert "notes.wav" in text and "4 clip(s)" in text
    for said in (
        "1001_TIE_ANG_XX (silent)",
        "1001_TIE_HAP_XX (silent)",
        "1002_TIE_ANG_XX (0.10 s)",
        "1003_TIE_ANG_XX (12.00 s)",
    ):
        assert said in text and said.split()[0] not in rows


def test_other_folders_are_refused(prepare, tmp_path):
    with pytest.raises(InputError, match="lacks AudioWAV/ and VideoDemograph"):
        prepare(tmp_path / "nowhere")
    folder = make_corpus(tmp_path / "crema")
    demographics = folder / "VideoDemographics.csv"
    text = demographics.read_text()
    demographics.unlink()
    with pytest.raises(InputError, match="it lacks VideoDemographics.csv:"):
        prepare(folder)
    demographics.write_text(text.replace("Sex", "Gender"))
    with pytest.raises(InputError, match="no column 'Sex'"):
        prepare(folder)
    demographics.write_text("\n".join(text.splitlines()[:-1]))
    with pytest.raises(InputError, match="no row for 1 of the actors.*1008"):
        prepare(folder)
    demographics.write_text(text)
    wav = folder / "AudioWAV/1001_TIE_ANG_XX.wav"
    wav.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="git lfs pull"):
        prepare(folder)
    wav.write_text("nonsense")
    with pytest.raises(InputError, match="1001_TIE_ANG_XX.* no readable audio"):
        prepare(folder)
    for path in (folder / "AudioWAV").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="named like 1001_DFA_ANG_XX.wav"):
        prepare(folder)
    assert not (tmp_path / "manifest.csv").exists()


def test_impossible_splits(script, prepare, corpus):
    for ratios in ((0.6, 0.4), (1, 0, 1)):
        with pytest.raises(InputError, match="three positive shares"):
            prepare(corpus, ratios=ratios)
    with pytest.raises(InputError, match="2 actor"):
        script.split_speakers({"1001": "male", "1002": "female"})


def test_skip_prep(prepare, tmp_path):
    (tmp_path / "manifest.csv").write_text("ID,wav\nx,y.wav\n")
    assert prepare(tmp_path, skip_prep=True) == [{"ID": "x", "wav": "y.wav"}]


def test_examples_in_the_docstrings(script, monkeypatch):
    # doctest looks up there whether a function is the module's own.
    monkeypatch.setitem(sys.modules, script.__name__, script)
    results = doctest.testmod(script)
    assert results.attempted and not results.failed


def test_recipe(corpus, tmp_path):
    """Three subspaces of a grid with holes, and what each of them holds."""
    out = tmp_path / "out"
    options = [
        "--split_ratios=[2, 1, 1]",
        "--subspace_widths={speaker: 12, content: 10, emotion: 8}",
        "--train_block={speaker: 4, content: 3, emotion: 3}",
        "--number_of_epochs=3",
        f"--data_folder={corpus}",
        f"--output_folder={out}",
        f"--cache_folder={tmp_path / 'features'}",
        "--device=cpu",
        "--noprogressbar",
    ]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "train.py", "hparams/three_factors.yaml", *options],
        cwd=RECIPE / "post-training",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((out / "results.json").read_text())
    factors = results["grid"]["factors"]
    assert factors == {"speaker": 4, "content": 3, "emotion": 3}
    dims = {f: s["dim"] for f, s in subspaces(results, "joint").items()}
    assert dims == {"speaker": 12, "content": 10, "emotion": 8}
    dims = {f: s["dim"] for f, s in subspaces(results, "grid_lda").items()}
    assert dims == {"speaker": 3, "content": 2, "emotion": 2}

    with open(out / "manifest.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "test"]
    labels = {f: [row[f] for row in rows] for f in FACTORS}
    for export in ("export", "export_grid_lda"):
        model = SubspaceEncoder.from_hparams(source=str(out / export))
        assert model.subspaces == list(FACTORS)
        assert set(model.hparams.thresholds) == set(FACTORS)
        paths = [str(corpus / row["wav"]) for row in rows]
        vectors = {
            factor: np.concatenate(
                [model.encode_file(path, factor)[0] for path in paths]
            )
            for factor in FACTORS
        }
        report = leakage_report(vectors, labels, folds=2)
        assert list(report["subspaces"]) == list(FACTORS)
        for entry in report["subspaces"].values():
            assert set(entry["probe"]) == set(entry["eer"]) == set(FACTORS)
    # Of the closed form: each subspace holds its own factor above all.
    for factor in FACTORS:
        entry = report["subspaces"][factor]
        assert entry["probe"][factor]["accuracy"] > 0.9
        assert entry["eer"][factor] < 0.3
        for other in set(FACTORS) - {factor}:
            assert entry["probe"][other]["accuracy"] < 0.8
            assert entry["eer"][other] > 0.35


def subspaces(results, system):
    return results["systems"][system]["subspaces"]
