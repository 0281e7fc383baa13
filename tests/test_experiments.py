"""Planning, running and summing up many runs."""

import csv
import json
import sys

import pytest

from speechbrain_ext.evaluation.experiments import (
    layer_panels,
    markdown_table,
    summary_rows,
    write_summary,
)
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.experiments import (
    Cell,
    Job,
    plan_evaluations,
    plan_trainings,
    run_jobs,
)

SYSTEMS = {
    "baseline": {
        "hparams": "b.yaml",
        "options": {"number_of_epochs": 0},
        "seeds": 1,
        "exports": ["export_grid_lda", "export_pca"],
    },
    "joint": {"hparams": "j.yaml"},
    "mixture": {
        "hparams": "j.yaml",
        "layers": [0, 1],
        "options": {"network": {"layer_mixture": True}},
    },
}


def plan(experiments, **changes):
    options = dict(
        encoders=["log_mel"],
        layers=[[2]],
        seeds=[1, 2],
        sweep=[[0], [2]],
        output_folder="out",
        script="train.py",
    )
    return plan_trainings(SYSTEMS, experiments, **options | changes)


def test_grid_of_runs():
    source = {"encoder": "hf_encoder", "encoder_source": "/m/moon"}
    cells = plan(["baseline", "joint"], encoders=["log_mel", source])
    found = [(cell.encoder, cell.layers, len(cell.trainings)) for cell in cells]
    # The baseline takes one seed, the sweep too, and [2] is in both lists.
    assert found == [
        ("log_mel", [2], 3),
        ("log_mel", [0], 2),
        ("hf_encoder-moon", [2], 3),
        ("hf_encoder-moon", [0], 2),
    ]
    assert [str(path.relative_to("out")) for path in cells[2].exports] == [
        "hf_encoder-moon/layers_2/baseline/1/export_grid_lda",
        "hf_encoder-moon/layers_2/baseline/1/export_pca",
        "hf_encoder-moon/layers_2/joint/1/export",
        "hf_encoder-moon/layers_2/joint/2/export",
    ]
    assert cells[2].trainings[2].command == [
        "train.py",
        "j.yaml",
        "--encoder=hf_encoder",
        "--encoder_source=/m/moon",
        "--layers=[2]",
        "--seed=2",
        "--output_folder=out/hf_encoder-moon/layers_2/joint/2",
    ]


def test_own_layers_and_options():
    cells = plan(["joint", "mixture"], arguments=["--device=cpu"])
    assert [cell.layers for cell in cells] == [[2], [0], [0, 1]]
    command = cells[2].trainings[1].command
    assert '--network={"layer_mixture": true}' in command
    assert "--seed=2" in command and command[-1] == "--device=cpu"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seeds": []}, "seeds is empty"),
        ({"layers": []}, "layers is empty"),
        ({"encoders": []}, "encoders is empty"),
    ],
)
def test_empty_lists(changes, message):
    with pytest.raises(InputError, match=message):
        plan(["joint"], **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"layers": [0, 6]}, "'0' is no choice of layers"),
        ({"sweep": [6]}, "'6' is no choice of layers"),
        ({"seeds": 1}, "seeds is '1': give a list"),
        ({"encoders": "log_mel"}, "encoders is 'log_mel': give a list"),
        ({"seeds": [1, 1]}, "Two runs .*layers_2/joint/1:"),
        (
            {"encoders": [{"encoder": "e", "encoder_source": f"{a}/m"}
             for a in "xy"]},
            "Two runs .*e-m/layers_2",
        ),
        ({"arguments": ["--seed=3"]}, "--seed=3 is set .*--train_options"),
        (
            {"options": {"number_of_epochs": 1},
             "arguments": ["--number_of_epochs", "2"]},
            "--number_of_epochs is set",
        ),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_meant(changes, message):
    with pytest.raises(InputError, match=message):
        plan(["joint"], **changes)


def test_option_files_lie_beside_the_script():
    """So that the runner works from any folder."""
    job = plan(["joint"], script="a/train.py")[0].trainings[0]
    assert job.command[:2] == ["a/train.py", "a/j.yaml"]
    sets = {"b": {"data_folder": "."}}
    jobs = plan_evaluations([], sets, "a/e.py", "e.yaml", "out")
    assert jobs == {}
    cell = Cell("log_mel", [2], [job], ["out"])
    jobs = plan_evaluations([cell], sets, "a/e.py", "e.yaml", "out")
    assert jobs["b", 0].command[:2] == ["a/e.py", "a/e.yaml"]


def test_a_systems_own_options_come_first():
    [cell] = plan(["baseline"], sweep=[], options={"number_of_epochs": 9})
    assert "--number_of_epochs=0" in cell.trainings[0].command


def test_unknown_experiment():
    with pytest.raises(InputError, match="'jiont': the systems are baseline"):
        plan(["jiont"])


def test_recordings_without_a_folder_are_left_out():
    cells = plan(["joint"])
    sets = {"a": {"data_folder": None}, "b": {"data_folder": ".", "seed": 3}}
    jobs = plan_evaluations(cells, sets, "evaluate.py", "e.yaml", "out")
    assert list(jobs) == [("b", 0), ("b", 1)]
    command = jobs["b", 0].command
    assert command[:4] == [
        "evaluate.py",
        "e.yaml",
        "--data_folder=.",
        "--seed=3",
    ]
    assert command[4] == (
        '--export_folder=["out/log_mel/layers_2/joint/1/export", '
        '"out/log_mel/layers_2/joint/2/export"]'
    )
    with pytest.raises(InputError, match="data folder of a"):
        plan_evaluations(cells, {"a": {}}, "evaluate.py", "e.yaml", "out")
    sets["b"]["data_folder"] = "none"
    with pytest.raises(InputError, match="no folder none, .* of b"):
        plan_evaluations(cells, sets, "evaluate.py", "e.yaml", "out")


def writer(folder, text, then=""):
    """A job that leaves a trace of each time it ran."""
    code = f"open(r'{folder.parent}/log', 'a').write('{text}'); {then}"
    return Job(folder, ["-c", code])


def test_finished_jobs_are_not_run_again(tmp_path):
    jobs = [writer(tmp_path / name, name) for name in "ab"]
    run_jobs(jobs[:1])
    run_jobs(jobs)
    assert (tmp_path / "log").read_text() == "ab"


def test_another_command_in_a_finished_folder(tmp_path):
    run_jobs([writer(tmp_path / "a", "x")])
    other = [writer(tmp_path / "a", "y")]
    with pytest.raises(InputError, match="another command .*, now .*'y'"):
        run_jobs(other)
    run_jobs(other, renew=True)
    assert (tmp_path / "log").read_text() == "xy"


def test_what_reads_a_job_that_was_run_again_is_run_again(tmp_path):
    training = writer(tmp_path / "t", "t")
    evaluation = writer(tmp_path / "e", "e")
    cells = [Cell("log_mel", [0], [training], ["export"])]
    planned = plan_evaluations(
        cells, {"r": {"data_folder": str(tmp_path)}}, "e", "e", tmp_path
    )["r", 0]
    assert planned.after == (training,)
    evaluation = Job(evaluation.folder, evaluation.command, planned.after)
    for _ in range(2):
        run_jobs([training])
        run_jobs([evaluation])
    assert (tmp_path / "log").read_text() == "te"
    (tmp_path / "t/finished.json").unlink()
    run_jobs([training])
    run_jobs([evaluation])
    assert (tmp_path / "log").read_text() == "tete"


@pytest.mark.parametrize("devices", ["cuda", []])
def test_devices_are_a_list(devices, tmp_path):
    with pytest.raises(InputError, match="devices"):
        run_jobs([writer(tmp_path / "a", "a")], devices=devices)
    assert not (tmp_path / "log").exists()


def test_a_failure_stops_no_other_job_and_is_run_again(tmp_path):
    fails = f"open(r'{tmp_path}/ok'); print('all is well')"
    jobs = [writer(tmp_path / "a", "a", fails), writer(tmp_path / "b", "b")]
    with pytest.raises(
        InputError, match="1 of 2 jobs failed, first .*No such file"
    ):
        run_jobs(jobs)
    assert "Traceback" in (tmp_path / "a/output.txt").read_text()
    (tmp_path / "ok").touch()
    run_jobs(jobs)
    assert (tmp_path / "log").read_text() == "aba"


def test_devices_share_the_jobs(tmp_path):
    """Two devices: both are used, each by one job at a time."""
    code = (
        "import sys, time; start = time.time(); time.sleep(0.3); "
        f"open(r'{tmp_path}/' + sys.argv[1][9:], 'a')"
        ".write(f'{start} {time.time()}\\n')"
    )
    jobs = [Job(tmp_path / str(i), ["-c", code]) for i in range(4)]
    run_jobs(jobs, devices=["one", "two"])
    spans = [
        [
            tuple(map(float, line.split()))
            for line in path.read_text().split("\n")[:-1]
        ]
        for path in (tmp_path / "one", tmp_path / "two")
    ]
    assert sum(map(len, spans)) == 4 and min(map(len, spans)) >= 1
    for own in spans:
        own.sort()
        assert all(a[1] <= b[0] for a, b in zip(own, own[1:]))


def measured(value, **more):
    row = {
        "interval": [value - 0.1, value + 0.1],
        "difference": None,
        "difference_interval": None,
        "significant": None,
    }
    return row | more


@pytest.fixture
def results():
    """Of an evaluation with two seeds of one system."""
    compared = {
        "difference": -0.2,
        "difference_interval": [-0.3, -0.1],
        "significant": True,
    }
    verification = {
        "baseline": measured(0.4, eer=0.4),
        "joint@1 speaker": measured(0.1, eer=0.1),
        "joint@2 speaker": measured(0.3, eer=0.3),
    }
    seeds = {
        "joint speaker": {"values": [0.1, 0.3], "mean": 0.2, "sd": 0.14}
        | {"interval": [0.15, 0.25]}
        | compared
    }
    probe = {"accuracy": 0.5, "folds": []}
    leakage = {
        "factors": {"speaker": {}},
        "subspaces": {
            "joint@1 speaker": {"probe": {"speaker": probe}},
            "joint@2 speaker": {"probe": {"speaker": {"accuracy": 0.7}}},
            "baseline": {"probe": {"speaker": {"accuracy": None}}},
        },
    }
    measures = {"verification": verification, "seeds": {"verification": seeds}}
    return {
        "domain_statistics": "grid",
        "conditions": {
            "clean": measures | {"leakage": leakage},
            "shifted": measures,
        },
    }


def test_rows_put_seeds_together(results):
    rows = summary_rows(results)
    assert [(r["condition"], r["measure"], r["system"]) for r in rows] == [
        ("clean", "EER", "baseline"),
        ("clean", "EER", "joint speaker"),
        ("clean", "speaker probe", "joint speaker"),
        ("shifted", "EER", "baseline"),
        ("shifted", "EER", "joint speaker"),
    ]
    joint, probe = rows[1], rows[2]
    assert joint["seeds"] == 2 and joint["mean"] == 0.2
    assert (joint["low"], joint["high"]) == (0.15, 0.25)
    assert (joint["difference_low"], joint["differs"]) == (-0.3, True)
    assert probe["mean"] == pytest.approx(0.6) and probe["low"] is None


def test_table(results):
    assert markdown_table(summary_rows(results)).splitlines() == [
        "| system | seeds | EER % | EER %, shifted | speaker probe % |",
        "|---|---|---|---|---|",
        "| baseline | 1 | 40.0 (30.0 .. 50.0) | 40.0 (30.0 .. 50.0) | - |",
        "| joint speaker | 2 | 20.0 ± 14.0 (15.0 .. 25.0) * | "
        "20.0 ± 14.0 (15.0 .. 25.0) * | 60.0 ± 14.1 |",
    ]


def test_summary_files(results, tmp_path):
    cells, jobs = [], {}
    for number, layers in enumerate([[0], [6], [0, 6]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(results))
        cells.append(Cell("moon", layers, [], []))
        jobs["real", number] = Job(folder, [])
    write_summary(tmp_path, cells, jobs)
    with open(tmp_path / "summary.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["layers"] for row in rows[::5]] == ["0", "6", "0+6"]
    assert rows[0]["sd"] == "" and float(rows[1]["sd"]) == 0.14
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "## real: moon, layers 0, 6\n" in text
    assert (tmp_path / "layers_real_moon.png").stat().st_size > 5000


def test_panels_take_single_layers_only(results):
    rows = [r | {"layers": [0, 6]} for r in summary_rows(results)]
    assert layer_panels(rows) == {}
    rows = [r | {"layers": [6]} for r in summary_rows(results)]
    panel = layer_panels(rows)["shifted"]["EER"]
    assert panel["joint speaker"] == {6: (0.2, [0.15, 0.25])}


def test_python_is_this_one(tmp_path):
    code = "import sys; print(sys.executable)"
    run_jobs([Job(tmp_path, ["-c", code])])
    assert (tmp_path / "output.txt").read_text().strip() == sys.executable
