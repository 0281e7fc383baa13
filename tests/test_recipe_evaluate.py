"""evaluate.py on exports of a small run."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, voiced

from speechbrain_ext.evaluation.keywords import KEYWORDS
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.subspaces import SubspaceNetwork
from speechbrain_ext.utils.errors import one_line_errors

RECIPE = ROOT / "recipes/InterventionalTTS/post-training"


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Two seeds of an untrained head with two factors, one of one factor."""
    folder = tmp_path_factory.mktemp("exports")
    encoder = load_encoder("log_mel")
    both = ["speaker", "content"]
    for name, seed, factors in (
        ("joint", 1, both),
        ("joint", 2, both),
        ("speaker_only", 1, ["speaker"]),
    ):
        torch.manual_seed(seed)
        network = SubspaceNetwork(
            [1, 560], factors, dict.fromkeys(factors, 8), [16], standardise=True
        )
        network.fit_statistics(torch.randn(50, 1, 560))
        export_subspaces(
            folder / f"{name}_{seed}", encoder, network, [0], name, seed
        )
    return folder


@pytest.fixture
def evaluate(monkeypatch, tmp_path, small_grid):
    """The script's ``main``; returns its results."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.chdir(RECIPE)
    spec = importlib.util.spec_from_file_location(
        "evaluate", RECIPE / "evaluate.py"
    )
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "evaluate", module)
    spec.loader.exec_module(module)

    def run(*arguments):
        defaults = [
            f"--data_folder={small_grid}",
            f"--output_folder={tmp_path / 'out'}",
            f"--cache_folder={tmp_path / 'features'}",
            "--resamples=50",
            "--device=cpu",
            "--noprogressbar",
        ]
        chosen = {a.split("=")[0]: a for a in [*defaults, *arguments]}
        with one_line_errors():
            module.main(["hparams/evaluate.yaml", *chosen.values()])
        return json.loads((tmp_path / "out/results.json").read_text())

    run.out = tmp_path / "out"
    return run


def test_everything_at_once(evaluate, exports, capsys):
    folders = [exports / n for n in ("joint_1", "joint_2", "speaker_only_1")]
    results = evaluate(
        f"--export_folder=[{', '.join(map(str, folders))}]",
        "--tasks=[verification, content, keywords, leakage]",
        "--evaluated_split=test",
        "--gender_factor=speaker",
        "--domain_statistics=target",
    )
    names = [
        "baseline",
        "baseline_standardised",
        "joint@1 speaker",
        "joint@1 content",
        "joint@2 speaker",
        "joint@2 content",
        "speaker_only speaker",
    ]
    assert results["exports"] == ["joint@1", "joint@2", "speaker_only"]
    assert results["domain_statistics"] == (
        "target: 70 utterances that are not evaluated"
    )
    for condition in ("clean", "shifted"):
        measures = results["conditions"][condition]
        for task in ("verification", "content", "keywords"):
            assert list(measures[task]) == names
        row = measures["verification"]["joint@1 speaker"]
        assert row["trials"] == 240 and row["targets"] == 120
        # Two speakers: no interval, and no claim.
        assert row["interval"] is None and row["significant"] is None
        # Two speakers: pairs within one have no impostors, and the reverse.
        kinds = row["categories"]["gender"]
        assert kinds["s6-s6"]["eer"] is None
        assert kinds["s6-s7"]["false_alarm"] is not None
        assert measures["keywords"]["baseline"]["chance"] == pytest.approx(
            1 / 6
        )
        leakage = measures["leakage"]
        assert list(leakage["subspaces"]) == names
        assert leakage["controls"]
        for task in ("verification", "content", "keywords"):
            seeds = measures["seeds"][task]["joint speaker"]
            key = "eer" if task == "verification" else "accuracy"
            assert seeds["values"] == [
                measures[task][f"joint@{seed} speaker"][key] for seed in (1, 2)
            ]
        seeds = measures["seeds"]["leakage"]["probe"]["content"]
        assert list(seeds) == ["joint speaker", "joint content"]
        assert seeds["joint speaker"]["mean"] == pytest.approx(
            np.mean(
                [
                    leakage["subspaces"][f"joint@{seed} speaker"]["probe"][
                        "content"
                    ]["accuracy"]
                    for seed in (1, 2)
                ]
            )
        )
        for plot in ("scores", "det", "speakers", "leakage"):
            image = evaluate.out / f"{plot}_{condition}.png"
            assert image.read_bytes().startswith(b"\x89PNG")
    clean = results["conditions"]["clean"]["keywords"]["baseline"]
    assert clean["accuracy"] > 2 * clean["chance"]
    printed = capsys.readouterr().out
    assert (evaluate.out / "report.txt").read_text() in printed
    assert "over seeds" in printed
    # The trials that were made can be given to other scripts.
    assert len((evaluate.out / "trials.txt").read_text().splitlines()) == 240


def test_intervals(evaluate, exports):
    """All eight speakers: intervals around the values, and paired ones."""
    results = evaluate(
        f"--export_folder={exports / 'joint_1'}", "--tasks=verification"
    )
    rows = results["conditions"]["clean"]["verification"]
    for row in rows.values():
        low, high = row["interval"]
        assert low <= row["eer"] <= high and low < high
    row = rows["joint content"]
    low, high = row["difference_interval"]
    assert row["significant"] == (low > 0 or high < 0)


def test_means_over_seeds(evaluate, exports):
    """Intervals of the mean, and of its difference to a seed's system."""
    folders = [exports / n for n in ("joint_1", "joint_2", "speaker_only_1")]
    results = evaluate(
        f"--export_folder=[{', '.join(map(str, folders))}]",
        "--tasks=[verification]",
    )
    measures = results["conditions"]["clean"]
    row = measures["seeds"]["verification"]["joint speaker"]
    base = measures["verification"]["baseline"]["eer"]
    assert row["difference"] == pytest.approx(row["mean"] - base)
    low, high = row["interval"]
    assert low < row["mean"] < high
    low, high = row["difference_interval"]
    assert row["significant"] == (low > 0 or high < 0)
    report = (evaluate.out / "report.txt").read_text()
    line = next(x for x in report.splitlines() if x.startswith("joint speaker"))
    assert f"{100 * low:.1f} .. {100 * high:.1f}" in line
    assert line.split()[-2:] == [
        f"{100 * row['values'][0]:.1f},",
        f"{100 * row['values'][1]:.1f}",
    ]


def test_leakage_of_three_factors(evaluate, exports, small_grid, tmp_path):
    """Columns of any number; no content factor is needed for it."""
    header, *rows = (small_grid / "manifest.csv").read_text().splitlines()
    three = tmp_path / "three.csv"
    rates = [f"{row},r{number % 2}" for number, row in enumerate(rows)]
    three.write_text("\n".join([f"{header},rate", *rates]))
    results = evaluate(
        f"--export_folder={exports / 'joint_1'}",
        f"--manifest={three}",
        "--content_factor=null",
        "--tasks=[leakage]",
        "--leakage_factors=[speaker, content, rate]",
    )
    leakage = results["conditions"]["clean"]["leakage"]
    assert {f: k["values"] for f, k in leakage["factors"].items()} == {
        "speaker": 8,
        "content": 6,
        "rate": 2,
    }
    for entry in leakage["subspaces"].values():
        assert list(entry["probe"]) == ["speaker", "content", "rate"]
    report = (evaluate.out / "report.txt").read_text()
    header = next(x for x in report.splitlines() if x.startswith("read from"))
    assert [x for x in header.split() if x in leakage["factors"]] == [
        "speaker",
        "content",
        "rate",
    ]


def test_statistics_change_the_result_and_are_described(evaluate, exports):
    one = f"--export_folder={exports / 'joint_1'}"
    grid = evaluate(one, "--tasks=[verification]")
    assert grid["domain_statistics"] == "grid"
    target = evaluate(
        one, "--tasks=[verification]", "--domain_statistics=target"
    )
    assert "transductive" in target["domain_statistics"]
    some = evaluate(one, "--evaluated_split=test", "--domain_statistics=target")
    assert "70 utterances" in some["domain_statistics"]
    eers = [
        r["conditions"]["clean"]["verification"]["joint speaker"]["eer"]
        for r in (grid, target)
    ]
    assert eers[0] != eers[1]


def test_given_trials(evaluate, exports, tmp_path):
    trials = tmp_path / "trials.txt"
    trials.write_text("1 s6_c1_0 s6_c2_0\n0 s6_c1_0 s7_c1_0.wav\n")
    results = evaluate(
        f"--export_folder={exports / 'joint_1'}",
        "--export_names=[mine]",
        f"--trials={trials}",
        "--tasks=[verification]",
    )
    rows = results["conditions"]["clean"]["verification"]
    assert rows["mine speaker"]["trials"] == 2
    kinds = rows["mine speaker"]["categories"]["content"]
    assert kinds["same"]["nontargets"] == kinds["different"]["targets"] == 1
    assert rows["mine speaker"]["eer"] in (0.0, 1.0)


@pytest.mark.parametrize("scoring", ["s-norm", "plda"])
def test_scoring_with_a_cohort(evaluate, exports, scoring):
    results = evaluate(
        f"--export_folder={exports / 'joint_1'}",
        "--tasks=[verification]",
        f"--scoring={scoring}",
        "--cohort_split=train",
        "--evaluated_split=test",
    )
    assert results["scoring"] == scoring
    rows = results["conditions"]["clean"]["verification"]
    plain = evaluate(
        f"--export_folder={exports / 'joint_1'}",
        "--tasks=[verification]",
        "--evaluated_split=test",
    )["conditions"]["clean"]["verification"]
    assert any(rows[n]["eer"] != plain[n]["eer"] for n in rows)
    with pytest.raises(SystemExit):  # the cohort may not be evaluated
        evaluate(
            f"--export_folder={exports / 'joint_1'}",
            "--tasks=[verification]",
            f"--scoring={scoring}",
            "--cohort_split=train",
        )


# The official lists of words.
V1 = [
    *KEYWORDS,
    *"bed bird cat dog eight five four happy house marvin nine one".split(),
    *"seven sheila six three tree two wow zero".split(),
]
V2 = [*V1, "backward", "follow", "forward", "learn", "visual"]


def speech_commands(folder, words):
    """A folder of the official layout; speaker 3 validates, 4 and 5 test."""
    lists = {"validation_list.txt": [], "testing_list.txt": []}
    for number, word in enumerate(words):
        (folder / word).mkdir(parents=True)
        for speaker in range(6):
            name = f"{speaker:08x}_nohash_0.wav"
            wave = voiced(speaker, number, seconds=0.3)
            soundfile.write(folder / word / name, wave, 16000)
            if speaker == 3:
                lists["validation_list.txt"].append(f"{word}/{name}")
            if speaker > 3:
                lists["testing_list.txt"].append(f"{word}/{name}")
    (folder / "_background_noise_").mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).normal(0, 0.1, 40000)
        soundfile.write(
            folder / f"_background_noise_/noise{number}.wav", noise, 16000
        )
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines))


def test_speech_commands_keywords(evaluate, exports, tmp_path):
    """The 12-class task of v0.02; its test split unless told otherwise."""
    speech_commands(tmp_path / "commands", V2)
    results = evaluate(
        f"--export_folder={exports / 'joint_1'}",
        f"--data_folder={tmp_path / 'commands'}",
        "--speech_commands=True",
        "--tasks=[keywords]",
    )
    assert results["protocol"] is None
    row = results["conditions"]["clean"]["keywords"]["baseline"]
    assert row["classes"] == sorted([*KEYWORDS, "_unknown_", "_silence_"])
    assert sum(map(sum, row["confusion"])) == 2 * 35 + 2  # pieces of silence
    assert row["balanced_accuracy"] > 2 / 12


def test_published_keywords(evaluate, exports, tmp_path):
    """v0.01 by the published protocol: no silence in the test."""
    speech_commands(tmp_path / "commands", V1)
    folders = [exports / n for n in ("joint_1", "joint_2")]
    arguments = [
        f"--export_folder=[{', '.join(map(str, folders))}]",
        f"--data_folder={tmp_path / 'commands'}",
        "--speech_commands=True",
        "--tasks=[keywords]",
        "--protocol=published",
    ]
    results = evaluate(*arguments)
    assert results["protocol"] == "published"
    assert list(results["conditions"]) == ["clean"]
    measures = results["conditions"]["clean"]
    row = measures["keywords"]["joint@1 content"]
    assert len(row["classes"]) == 12
    silence = row["classes"].index("_silence_")
    assert sum(map(sum, row["confusion"])) == 2 * 30
    assert sum(row["confusion"][silence]) == 0
    assert row["majority"] == pytest.approx(40 / 60)
    assert len(measures["seeds"]["keywords"]["joint content"]["values"]) == 2
    manifest = (evaluate.out / "manifest.csv").read_text().splitlines()
    kinds = [tuple(line.split(",")[-2:]) for line in manifest]
    assert kinds.count(("_silence_", "train")) == 1800
    assert kinds.count(("_silence_", "valid")) == 200
    report = (evaluate.out / "report.txt").read_text()
    assert report.startswith("published protocol")
    assert "majority 66.7 %" in report and "macro-F1" in report


@pytest.fixture
def voxceleb(tmp_path):
    """VoxCeleb1's test folder: six speakers, a list and their table."""
    lines, table = [], ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    speakers = [f"id{10270 + number}" for number in range(6)]
    for number, speaker in enumerate(speakers):
        gender = "mf"[number % 2]
        table.append(f"{speaker}\tSome_Name\t{gender}\tUK\ttest")
        for take in range(2):
            path = tmp_path / f"vox/wav/{speaker}/5r0dWxy17C8/0000{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            wave = voiced(number, take, seconds=0.4)
            soundfile.write(path, wave, 16000)
        first = f"{speaker}/5r0dWxy17C8/00000.wav"
        lines.append(f"1 {first} {first.replace('00000', '00001')}")
        for other in speakers[:number]:
            lines.append(f"0 {first} {other}/5r0dWxy17C8/00001.wav")
    (tmp_path / "vox/veri_test2.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "vox1_meta.csv").write_text("\n".join(table) + "\n")
    return tmp_path / "vox"


@pytest.mark.parametrize("protocol", ["null", "published"])
def test_voxceleb(evaluate, exports, voxceleb, protocol):
    """From the folder alone: trials, and rows of ordered gender pairs."""
    results = evaluate(
        f"--export_folder={exports / 'joint_1'}",
        f"--data_folder={voxceleb}",
        "--voxceleb1=True",
        "--tasks=[verification]",
        f"--protocol={protocol}",
    )
    shifted = protocol == "null"
    assert list(results["conditions"]) == ["clean"] + ["shifted"] * shifted
    row = results["conditions"]["clean"]["verification"]["joint speaker"]
    assert (row["trials"], row["targets"]) == (21, 6)
    kinds = row["categories"]["gender"]
    assert list(kinds) == ["all", "f-f", "f-m", "m-f", "m-m"]
    assert kinds["all"]["eer"] == row["eer"]
    assert [kinds[k]["nontargets"] for k in list(kinds)[1:]] == [3, 6, 3, 3]
    for kind in ("f-m", "m-f"):
        assert kinds[kind]["targets"] == 0 and kinds[kind]["eer"] is None
        assert kinds[kind]["false_alarm"] is not None
        assert kinds[kind]["miss"] is None
    assert kinds["f-f"]["eer"] is not None
    assert (evaluate.out / "manifest.csv").is_file()
    # The cleaned list and the original one give different numbers.
    assert results["trials"] == str(voxceleb / "veri_test2.txt")
    report = (evaluate.out / "report.txt").read_text()
    assert f"trials: {voxceleb / 'veri_test2.txt'}" in report


def test_voxceleb_without_genders(evaluate, exports, voxceleb, capfd):
    """No table: no rows, and that is said. One condition needs no list."""
    (voxceleb.parent / "vox1_meta.csv").unlink()
    results = evaluate(
        f"--export_folder={exports / 'joint_1'}",
        f"--data_folder={voxceleb}",
        "--voxceleb1=True",
        "--tasks=verification",
        "--conditions=clean",
    )
    assert list(results["conditions"]) == ["clean"]
    row = results["conditions"]["clean"]["verification"]["joint speaker"]
    assert row["categories"] == {}
    assert "no rows of gender pairs" in "".join(capfd.readouterr())


def test_bad_voxceleb(evaluate, exports, voxceleb, capfd):
    for options, message in (
        (["--tasks=[content]"], "add --tasks='[verification]'"),
        (["--speech_commands=True"], "choose one of them"),
        (["--voxceleb1_meta=absent.csv"], "No file absent.csv"),
        (["--trials=absent.txt"], "No file absent.txt"),
        (["--protocol=own"], "Unknown name 'own' for hparams/protocols"),
        (["--conditions=[noisy]"], "No condition 'noisy'"),
    ):
        with pytest.raises(SystemExit):
            evaluate(
                f"--export_folder={exports / 'joint_1'}",
                f"--data_folder={voxceleb}",
                "--voxceleb1=True",
                "--tasks=[verification]",
                *options,
            )
        assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        (["--export_folder=null"], "No export_folder"),
        (["--tasks=[]"], "No task"),
        (["--taks=[content]"], "Unknown option --taks"),
        (["--scoring=magic"], "Unknown name 'magic' for hparams/evaluation"),
        (["--speech_commands=True"], "add --tasks='[keywords]'"),
        (["--export_folder=nowhere"], "No export in 'nowhere'"),
        (["--evaluated_split=unseen"], "No utterance in split 'unseen'"),
        (["--tasks=[magic]"], "Unknown task 'magic'"),
        (["--content_factor=null"], "Task 'content' needs a content factor"),
        (["--content_factor=word"], "no column 'word'"),
        (["--leakage_factors=[speaker, mood]"], "no column 'mood'"),
        (["--leakage_factors=[speaker]"], "two columns of the manifest"),
        (["--leakage_factors=speaker"], "two columns of the manifest"),
        (["--domain_statistics=mine"], "expected grid or target"),
        (["--scoring=plda"], "Scoring 'plda' needs a cohort"),
        (["--reference=joint"], "unknown reference 'joint'"),
        (["--manifest=absent.csv"], "No manifest absent.csv"),
    ],
)
def test_bad_input_is_one_line(evaluate, exports, capfd, options, message):
    with pytest.raises(SystemExit) as ended:
        evaluate(f"--export_folder={exports / 'joint_1'}", *options)
    assert ended.value.code == 1
    lines = [x for x in capfd.readouterr().err.splitlines() if "ERROR" in x]
    assert len(lines) == 1 and message in lines[0]
    assert not (evaluate.out / "results.json").exists()


def test_more_bad_input(evaluate, exports, small_grid, tmp_path, capfd):
    one = f"--export_folder={exports / 'joint_1'}"
    trials = tmp_path / "trials.txt"
    trials.write_text("1 s6_c1_0 stranger\n")
    inverted = tmp_path / "inverted.txt"
    inverted.write_text("0 s6_c1_0 s6_c2_0\n")
    header, *rows = (small_grid / "manifest.csv").read_text().splitlines()
    empty, single = tmp_path / "empty.csv", tmp_path / "single.csv"
    empty.write_text(header + "\n")
    single.write_text("\n".join([header, *(r for r in rows if ",s6," in r)]))
    twice = f"--export_folder=[{exports / 'joint_1'}, {exports / 'joint_1'}]"
    for options, message in (
        ([one, f"--trials={trials}"], "stranger"),
        ([one, f"--trials={inverted}"], "1 of 1 labels contradict"),
        ([one, f"--manifest={empty}"], "no rows"),
        ([one, f"--manifest={single}"], "1 speaker(s)"),
        ([twice], "2 exports are called joint@1, joint@1"),
    ):
        with pytest.raises(SystemExit):
            evaluate(*options)
        assert message in capfd.readouterr().err


def test_two_encoders_in_one_table(evaluate, exports, tmp_path):
    other = load_encoder("log_mel", overrides={"encoder": {"n_mels": 40}})
    torch.manual_seed(0)
    network = SubspaceNetwork([1, 280], ["speaker"], {"speaker": 4}, [])
    export_subspaces(tmp_path / "small", other, network, [0], "small")
    results = evaluate(
        f"--export_folder=[{exports / 'joint_1'}, {tmp_path / 'small'}]",
        "--tasks=[verification]",
    )
    assert list(results["conditions"]["clean"]["verification"]) == [
        "baseline_1",
        "baseline_standardised_1",
        "joint speaker",
        "joint content",
        "baseline_2",
        "small speaker",
    ]
