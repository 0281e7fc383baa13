"""CREMA-D's prepare script, and the recipe on a folder shaped like it."""

import doctest
import importlib
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from crema_d import SENTENCES, clip, make_corpus

from speechbrain_ext.dataio.grid import Grid
from speechbrain_ext.evaluation.leakage import Leakage
from speechbrain_ext.evaluation.results import Subspace, read_results
from speechbrain_ext.evaluation.tasks import Embedded
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv

RECIPE = ROOT / "recipes/CREMA-D"
sys.path.append(str(RECIPE))
script = importlib.import_module("crema_d_prepare")
FACTORS = ("speaker", "content", "emotion")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("crema") / "CREMA-D")


@pytest.fixture
def prepare(tmp_path):
    def run(folder, manifest="manifest.csv", **options):
        script.prepare_crema_d(folder, tmp_path / manifest, **options)
        return read_csv(tmp_path / manifest)

    return run


def test_manifest(prepare, corpus):
    before = sorted(corpus.rglob("*"))
    rows = prepare(corpus)
    assert sorted(corpus.rglob("*")) == before  # nothing is written there
    assert list(rows[0]) == list(script.COLUMNS)
    assert set(FACTORS) < set(rows[0])
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
    assert grid.shape == (8, 3, 3) and len(grid.cells) == 72 - 2
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


def test_sizes_of_the_real_corpus():
    """91 actors, 48 of them male."""
    genders = {f"{1001 + n}": "male" if n < 48 else "female" for n in range(91)}
    splits = script.split_actors(genders)
    for gender, total in (("male", 48), ("female", 43)):
        own = [splits[s] for s in splits if genders[s] == gender]
        for split, share in (("train", 0.6), ("valid", 0.2), ("test", 0.2)):
            assert own.count(split) == pytest.approx(share * total, abs=1)


def test_odd_files(prepare, tmp_path, monkeypatch):
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
    with pytest.raises(InputError, match="lacks AudioWAV and VideoDemogr"):
        prepare(tmp_path / "nowhere")
    folder = make_corpus(tmp_path / "crema")
    demographics = folder / "VideoDemographics.csv"
    text = demographics.read_text()
    demographics.unlink()
    with pytest.raises(InputError, match="it lacks VideoDemographics.csv:"):
        prepare(folder)
    demographics.write_text(text.replace("Sex", "Gender"))
    with pytest.raises(InputError, match="columns 'ActorID' and 'Sex', got"):
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
    with pytest.raises(InputError, match="1001_TIE_ANG_XX.* not readable"):
        prepare(folder)
    for path in (folder / "AudioWAV").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="named like 1001_DFA_ANG_XX.wav"):
        prepare(folder)
    assert not (tmp_path / "manifest.csv").exists()


def test_impossible_splits(prepare, corpus):
    for ratios in ((0.6, 0.4), (1, 0, 1)):
        with pytest.raises(InputError, match="three positive shares"):
            prepare(corpus, ratios=ratios)
    with pytest.raises(InputError, match="2 actor"):
        script.split_actors({"1001": "male", "1002": "female"})


def test_skip_prep(prepare, tmp_path):
    (tmp_path / "manifest.csv").write_text("ID,wav\nx,y.wav\n")
    assert prepare(tmp_path, skip_prep=True) == [{"ID": "x", "wav": "y.wav"}]


def test_examples_in_the_docstrings():
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
    results = read_results(out)
    grid = {"speaker": 4, "content": 3, "emotion": 3}
    assert results["about"]["grid"]["factors"] == grid
    dims = {
        (row["system"], row["subspace"]): row["value"]
        for row in results["rows"]
        if row["measure"] == "dimension"
    }
    for system, wanted in (("joint", (12, 10, 8)), ("grid_lda", (3, 2, 2))):
        assert tuple(dims[system, factor] for factor in FACTORS) == wanted

    rows = [r for r in read_csv(out / "manifest.csv") if r["split"] == "test"]
    paths = [str(corpus / row["wav"]) for row in rows]
    task = Leakage({f: [row[f] for row in rows] for f in FACTORS}, folds=2)
    for export in ("export", "export_grid_lda"):
        model = SubspaceEncoder.from_hparams(source=str(out / export))
        assert model.subspaces == list(FACTORS)
        assert set(model.hparams.thresholds) == set(FACTORS)
        vectors = {
            Subspace(export, factor): np.concatenate(
                [model.encode_file(path, factor)[0] for path in paths]
            )
            for factor in FACTORS
        }
        found = {
            (row["measure"], row["subspace"], row["target"]): row["value"]
            for row in task(Embedded("recorded", {"test": vectors}))
        }
        for pair in product(FACTORS, FACTORS):
            assert ("accuracy", *pair) in found and ("eer", *pair) in found
    # Of the closed form: each subspace holds its own factor above all.
    for own, factor in product(FACTORS, FACTORS):
        accuracy, eer = (found[m, own, factor] for m in ("accuracy", "eer"))
        if own == factor:
            assert accuracy > 0.9 and eer < 0.3
        else:
            assert accuracy < 0.8 and eer > 0.35
