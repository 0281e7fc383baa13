"""Planning, running and summing up many runs."""

import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT, call_script
from helpers import read_table

from speechbrain_ext.evaluation.results import (
    COLUMNS,
    Subspace,
    make_row,
    measure_rows,
    write_results,
)
from speechbrain_ext.evaluation.summary import write_summary
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv
from speechbrain_ext.utils.jobs import (
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
    found = [(str(folder), len(cells[folder])) for folder in cells]
    # The baseline takes one seed, the sweep too, and [2] is in both lists.
    assert found == [
        ("out/log_mel/layers_2", 3),
        ("out/log_mel/layers_0", 2),
        ("out/hf_encoder-moon/layers_2", 3),
        ("out/hf_encoder-moon/layers_0", 2),
    ]
    jobs = cells[Path("out/hf_encoder-moon/layers_2")]
    assert [job.exports for job in jobs] == [
        ("export_grid_lda", "export_pca"), ("export",), ("export",)
    ]  # fmt: skip
    assert jobs[2].command == [
        "train.py",
        "j.yaml",
        "--encoder=hf_encoder",
        "--encoder_source=/m/moon",
        "--layers=[2]",
        "--seed=2",
        "--output_folder=out/hf_encoder-moon/layers_2/joint/2",
    ]


def test_poolings_of_an_encoder_have_folders_of_their_own():
    pooled = {"encoder": "mini", "encoder_pooling": "max"}
    cells = plan(["joint"], encoders=["mini", pooled], sweep=[])
    assert [*cells] == [
        Path("out/mini/layers_2"),
        Path("out/mini-max/layers_2"),
    ]
    assert (
        "--encoder_pooling=max"
        in cells[Path("out/mini-max/layers_2")][0].command
    )


def test_own_layers_and_options():
    cells = plan(["joint", "mixture"], arguments=["--device=cpu"])
    layers = [folder.name for folder in cells]
    assert layers == ["layers_2", "layers_0", "layers_0_1"]
    command = cells[Path("out/log_mel/layers_0_1")][1].command
    assert '--network={"layer_mixture": true}' in command
    assert "--seed=2" in command and command[-1] == "--device=cpu"
    # A system's own options come first.
    cells = plan(["baseline"], sweep=[], options={"number_of_epochs": 9})
    [[job]] = cells.values()
    assert "--number_of_epochs=0" in job.command


@pytest.mark.parametrize(
    "changes, message",
    [
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
        plan(**{"experiments": ["joint"]} | changes)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--experiments=[jiont]"],
            "experiments is ['jiont']: expected a list",
        ),
        (["--seeds=[]"], "seeds is []: expected a list"),
        (["--seeds=1"], "seeds is 1: expected a list"),
        (["--layers=[0, 6]"], "layers is [0, 6]: expected a list of 1 or more"),
        (["--sweep=[6]"], "sweep is [6]: expected a list of 0 or more"),
        (["--encoders=log_mel"], "encoders is 'log_mel': expected a list"),
        (["--devices=cuda"], "devices is 'cuda': expected a list"),
        (["--precision=bf16"], "This script does not read --precision: leave"),
        # What the first trainings would not find
        (["--encoders=[log_mel, lgo_mel]"], "Unknown name 'lgo_mel'"),
        (["--sweep=[[0], [7]]"], "layers_7/joint/1: Layer 7 does not exist"),
        (
            ["--train_options={train_block: {speaker: 5}}"],
            "A block of 5 values of 'speaker'",
        ),
        (["--", "--grad_accumulation_factor=99"], "but an epoch has 2 blocks"),
        (["--", "--subspace_widths={speaker: -1}"], "subspace_widths is "),
        (["--", "--precision=fp16", "--device=cpu"], "precision is fp16: on"),
    ],
)
def test_all_cells_are_checked_first(
    options, message, small_grid, tmp_path, capfd
):
    with pytest.raises(SystemExit):
        call_script(
            ROOT / "recipes/InterventionalTTS/post-training/run_experiments.py",
            "hparams/experiments.yaml",
            *(f"--data_folder={small_grid}", f"--output_folder={tmp_path}/a"),
            *("--experiments=[joint]", "--seeds=[1]"),
            "--train_options={train_block: {speaker: 2, content: 6}}",
            *options,
        )
    (line,) = capfd.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("ERROR: ") and message in line
    assert not (tmp_path / "a").exists()


def test_evaluations():
    """Recordings without a folder are left out; files beside the script."""
    cells = plan(["joint"], script="a/train.py")
    trainings = cells[Path("out/log_mel/layers_2")]
    assert trainings[0].command[:2] == ["a/train.py", "a/j.yaml"]
    sets = {"a": {"data_folder": None}, "b": {"data_folder": ".", "seed": 3}}
    jobs = plan_evaluations(cells, sets, "a/evaluate.py", "e.yaml")
    assert list(jobs) == [("b", 0), ("b", 1)]
    assert jobs["b", 0].command == [
        "a/evaluate.py",
        "a/e.yaml",
        "--data_folder=.",
        "--seed=3",
        '--export_folder=["out/log_mel/layers_2/joint/1/export", '
        '"out/log_mel/layers_2/joint/2/export"]',
        "--output_folder=out/log_mel/layers_2/evaluation_b",
    ]
    assert jobs["b", 0].after == tuple(trainings)
    for sets, message in (
        ({"a": {}}, "data folder of a"),
        ({"b": {"data_folder": "none"}}, "no folder none, .* of b"),
    ):
        with pytest.raises(InputError, match=message):
            plan_evaluations(cells, sets, "evaluate.py", "e.yaml")


def writer(folder, text, then="", after=()):
    """A job that leaves a trace of each time it ran."""
    code = f"open(r'{folder.parent}/log', 'a').write('{text}'); {then}"
    return Job(folder, ["-c", code], after)


def test_finished_jobs_are_not_run_again(tmp_path):
    jobs = [writer(tmp_path / name, name) for name in "ab"]
    run_jobs(jobs[:1])
    run_jobs(jobs)
    assert (tmp_path / "log").read_text() == "ab"
    other = [writer(tmp_path / "a", "y")]
    with pytest.raises(InputError, match="another command .*, now .*'y'"):
        run_jobs(other)
    run_jobs(other, renew=True)
    assert (tmp_path / "log").read_text() == "aby"


def test_what_reads_a_job_that_was_run_again_is_run_again(tmp_path):
    training = writer(tmp_path / "t", "t")
    evaluation = writer(tmp_path / "e", "v", after=(training,))
    for _ in range(2):
        run_jobs([training])
        run_jobs([evaluation])
    assert (tmp_path / "log").read_text() == "tv"
    (tmp_path / "t/finished.json").unlink()
    run_jobs([training])
    run_jobs([evaluation])
    assert (tmp_path / "log").read_text() == "tvtv"


def test_a_failure_stops_no_other_job_and_is_run_again(tmp_path):
    fails = f"import sys; open(r'{tmp_path}/ok'); print(sys.executable)"
    jobs = [writer(tmp_path / "a", "a", fails), writer(tmp_path / "b", "b")]
    with pytest.raises(
        InputError, match="1 of 2 jobs failed, first .*No such file"
    ):
        run_jobs(jobs)
    output = tmp_path / "a/output.txt"
    assert "Traceback" in output.read_text()
    (tmp_path / "ok").touch()
    run_jobs(jobs)
    assert (tmp_path / "log").read_text() == "aba"
    assert output.read_text().strip() == sys.executable


def test_devices_share_the_jobs(tmp_path):
    """Two devices: both are used, each by one job at a time."""
    code = (
        "import sys, time; start = time.time(); time.sleep(0.3); "
        f"open(r'{tmp_path}/' + sys.argv[1][9:], 'a')"
        ".write(f'{start} {time.time()}\\n')"
    )
    jobs = [Job(tmp_path / str(i), ["-c", code]) for i in range(4)]
    run_jobs(jobs, devices=["one", "two"])
    number = 0
    for device in ("one", "two"):
        times = [float(x) for x in (tmp_path / device).read_text().split()]
        assert times == sorted(times)  # start, end, start, end
        number += len(times) // 2
    assert number == 4


def evaluated(folder, layers):
    """What an evaluation of two seeds leaves in a folder."""
    origin = Subspace("joint", "speaker", "moon", layers)
    values = {
        origin._replace(system="baseline", subspace=""): 0.4,
        origin._replace(seed=1): 0.1,
        origin._replace(seed=2): 0.3,
    }
    draws = {o: [value - 0.1, value + 0.1] for o, value in values.items()}
    rows = [
        row | {"condition": condition, "task": "verification"}
        for condition in ("recorded", "channels")
        for row in measure_rows(values, draws, measure="eer")
    ]
    rows += [
        make_row(condition="recorded", task="x", measure="chance", value=1)
    ]
    about = {"domain_statistics": "grid", "protocol": None}
    write_results(folder, rows, about)
    return rows


def test_summary(tmp_path):
    places, number = [], 0
    for layers in ("0", "6", "0+6"):
        number += len(evaluated(tmp_path / layers, layers))
        places.append(("real", tmp_path / layers))
    text = write_summary(tmp_path, places)
    assert text == (tmp_path / "summary.md").read_text(encoding="utf-8")
    heads = re.findall("^## .*", text, re.MULTILINE)
    wanted = [f"## real: moon, layers {layers}" for layers in ("0", "6", "0+6")]
    assert heads == wanted
    assert text.count("protocol: ours; seeds: 1, 2\n") == 3
    # Seeds put together, and only together.
    lines = [line for line in read_table(text) if line[0] == "joint"]
    assert len(lines) == 3
    assert lines[0][-2:] == ["20.00 ± 14.14 (10.50..29.50) *"] * 2
    # All rows, those of single seeds too.
    rows = read_csv(tmp_path / "results.csv")
    assert len(rows) == number and list(rows[0]) == list(COLUMNS)
    assert {row["seed"] for row in rows} == {"", "1", "2", "all"}
    assert {row["run"] for row in rows} == {str(place) for _, place in places}
    assert (tmp_path / "layers_real_moon.png").stat().st_size > 5000


def test_no_plot_of_one_choice_of_layers(tmp_path):
    evaluated(tmp_path / "0", "0")
    write_summary(tmp_path, [("real", tmp_path / "0")])
    assert not list(tmp_path.glob("*.png"))
