"""Three factors: voices x sentences x speaking rates, from text to leakage."""

import itertools

import pytest
from conftest import ROOT, call_script

from speechbrain_ext.evaluation.results import read_results, select
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.utils.files import read_csv
from speechbrain_ext.utils.hparams import load_hparams

RECIPE = ROOT / "recipes/InterventionalTTS/post-training"
FACTORS = ["speaker", "content", "rate"]
QUIET = ("--device=cpu", "--noprogressbar")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one small run."""
    pytest.importorskip("espeakng_loader")
    work = tmp_path_factory.mktemp("three")
    call_script(
        RECIPE / "train.py",
        "hparams/three_factors.yaml",
        *("--n_train_voices=6", "--n_train_sentences=8"),
        *("--n_valid_voices=2", "--n_valid_sentences=3"),
        *("--n_test_voices=4", "--n_test_sentences=5"),
        "--train_block={speaker: 3, content: 4, rate: 3}",
        "--subspace_widths={speaker: 12, content: 10, rate: 8}",
        "--number_of_epochs=3",
        f"--data_folder={work / 'grid'}",
        f"--output_folder={work / 'out'}",
        f"--cache_folder={work / 'features'}",
        *QUIET,
    )
    return work


def test_options_fit_each_other(tmp_path):
    """What is trained is in the grid, and blocks and levels as well."""
    path = RECIPE / "hparams/three_factors.yaml"
    options = load_hparams(path, {"output_folder": str(tmp_path)})
    assert options["grid_factors"] == options["factors"] == FACTORS
    assert list(options["subspace_widths"]) == FACTORS
    assert options["network"].keywords["factors"] == FACTORS
    sizes = {
        "speaker": options["n_train_voices"],
        "content": options["n_train_sentences"],
        "rate": len(options["rates"]),
    }
    for factor, size in options["train_block"].items():
        assert 2 <= size <= sizes[factor]
    prepare = options["prepare"].keywords
    assert prepare["rates"] == options["rates"] == sorted(options["rates"])


def test_training(finished):
    about, rows = read_results(finished / "out").values()
    assert about["grid"]["factors"] == {"speaker": 6, "content": 8, "rate": 3}
    assert about["test_grid"]["utterances"] == 4 * 5 * 3
    # The closed form has one dimension less than there are values.
    for system, dims in (("joint", [12, 10, 8]), ("grid_lda", [5, 7, 2])):
        found = select(
            rows, system=system, measure="dimension", condition="recorded"
        )
        assert [row["value"] for row in found] == dims
    log = (finished / "out/train_log.txt").read_text()
    for factor in FACTORS:
        assert f"valid excess_{factor}" in log
    wav = finished / "grid" / read_csv(finished / "grid/manifest.csv")[0]["wav"]
    for name, width in (("export", 8), ("export_grid_lda", 2)):
        model = SubspaceEncoder.from_hparams(
            source=str(finished / "out" / name)
        )
        assert model.subspaces == list(model.hparams.thresholds) == FACTORS
        vector = model.encode_file(str(wav), subspace="rate")
        assert vector.shape[-1] == width


def test_leakage_matrix(finished):
    out = finished / "out"
    printed = call_script(
        RECIPE / "evaluate.py",
        "hparams/evaluate.yaml",
        f"--export_folder=[{out / 'export'}, {out / 'export_grid_lda'}]",
        f"--data_folder={finished / 'grid'}",
        f"--output_folder={finished / 'evaluation'}",
        f"--cache_folder={finished / 'features'}",
        "--evaluated_split=test",
        # No content factor is needed for it.
        *("--tasks=[leakage]", "--content_factor=null"),
        "--leakage_factors=[speaker, content, rate]",
        *("--conditions=[recorded]", "--resamples=20", "--probe_folds=2"),
        *QUIET,
    )
    rows = read_results(finished / "evaluation")["rows"]
    chance = select(rows, measure="chance")
    found = {row["target"]: row["value"] for row in chance}
    assert found == {"speaker": 1 / 4, "content": 1 / 5, "rate": 1 / 3}
    places = [printed.index(f"{factor} probe %") for factor in FACTORS]
    assert places == sorted(places)
    for system, subspace in itertools.product(("joint", "grid_lda"), FACTORS):
        own = select(rows, system=system, subspace=subspace)
        probes = select(own, measure="accuracy")
        assert [row["target"] for row in probes] == FACTORS
        eer = {r["target"]: r["value"] for r in select(own, measure="eer")}
        assert list(eer) == FACTORS
        # Voices and sentences are new; the closed form tells all three apart.
        if system == "grid_lda":
            assert min(eer, key=eer.get) == subspace and eer[subspace] < 0.4
    assert "leakage of rate: chance 33.3 %" in printed
