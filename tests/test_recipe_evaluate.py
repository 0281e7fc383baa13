"""evaluate.py on exports of heads that were never trained."""

import functools
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, cached_features, call_script, pick, voiced
from helpers import two_processes
from tiny_models import save_ecapa

from speechbrain_ext.evaluation.results import read_results, select
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.subspaces import SubspaceNetwork
from speechbrain_ext.metrics.keywords import keyword_classification
from speechbrain_ext.metrics.probes import linear_probe
from speechbrain_ext.metrics.retrieval import nearest_value
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.utils.files import read_csv, write_csv

RECIPE = ROOT / "recipes/InterventionalTTS/post-training"
FEW = "--tasks=[verification]", "--conditions=[recorded]"


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Two seeds of a head with two factors, one of one factor."""
    folder = tmp_path_factory.mktemp("exports")
    encoder, both = load_encoder("log_mel"), ["speaker", "content"]
    for name, seed, factors in (
        ("joint", 1, both),
        ("joint", 2, both),
        ("only", 1, ["speaker"]),
    ):
        torch.manual_seed(seed)
        network = SubspaceNetwork(
            [1, 560], factors, dict.fromkeys(factors, 8), [16], standardise=True
        )
        network.fit_statistics(torch.randn(50, 1, 560))
        path = folder / f"{name}_{seed}"
        export_subspaces(path, encoder, network, [0], name=name, seed=seed)
    return folder


@pytest.fixture(scope="module")
def evaluate(small_grid, exports, tmp_path_factory):
    """The script, by default on ``joint_1``; returns its folder and results."""
    features = tmp_path_factory.mktemp("features")

    def run(*arguments, names=("joint_1",), call=call_script):
        run.out = tmp_path_factory.mktemp("out")
        folders = ", ".join(str(exports / name) for name in names)
        run.printed = call(
            RECIPE / "evaluate.py",
            "hparams/evaluate.yaml",
            f"--export_folder=[{folders}]",
            f"--data_folder={small_grid}",
            f"--output_folder={run.out}",
            f"--cache_folder={features}",
            *("--resamples=20", "--device=cpu", "--noprogressbar"),
            *arguments,
        )
        return run.out, *read_results(run.out).values()

    return run


def labels_of(rows, **wanted):
    """Subspaces and seeds that have such rows, in their order."""
    labels = [
        f"{row['system']} {row['subspace']} {row['seed']}".strip()
        for row in select(rows, **wanted)
        if row["system"] not in ("", "control") and row["seed"] != "all"
    ]
    return list(dict.fromkeys(labels))


TASKS = ("verification", "content", "keywords", "leakage")
ALL_TASKS = (f"--tasks=[{', '.join(TASKS)}]", "--evaluated_split=test")
ALL_TASKS += ("--domain_statistics=target", "--gender_factor=speaker")
ALL_TASKS += ("--probe_folds=3", "--seed=5")
ALL_NAMES = ("joint_1", "joint_2", "only_1")


@pytest.fixture(scope="module")
def everything(evaluate, tmp_path_factory):
    """Folder and results of one evaluation with all tasks."""
    features = tmp_path_factory.mktemp("own_features")
    found = evaluate(f"--cache_folder={features}", *ALL_TASKS, names=ALL_NAMES)
    assert (found[0] / "report.txt").read_text() in evaluate.printed
    return *found, features


def test_everything_at_once(everything):
    out, about, rows, _ = everything
    assert about["exports"] == ["joint", "joint", "only"]
    statistics = "target: 70 utterances that are not evaluated"
    assert about["domain_statistics"] == statistics
    for condition in ("recorded", "channels"):
        here = select(rows, condition=condition)
        for task in TASKS:
            assert labels_of(here, task=task, measure=("eer", "accuracy")) == [
                *("baseline", "baseline_standardised", "joint speaker 1"),
                *("joint content 1", "joint speaker 2", "joint content 2"),
                "only speaker 1",
            ]
        assert select(here, system="control", measure="accuracy")
        # Two speakers: no interval; and none of them has impostors.
        asked = dict(seed=1, condition=condition, task="verification")
        ask = functools.partial(pick, rows, "joint speaker", **asked)
        assert ask()["n"] == 240 and ask()["low"] == ""
        assert (ask("miss")["n"], ask("false_alarm")["n"]) == (120, 120)
        assert ask("false_alarm", group="s6-s7")["value"] >= 0
        groups = {row["group"] for row in select(here, task="verification")}
        assert groups == {"", "s6-s6", "s6-s7", "s7-s7"}
        assert not select(here, group="s6-s6", measure="eer")
        for task in ("content", "keywords"):
            [chance] = select(here, task=task, measure="chance")
            assert chance["value"] == 1 / 6
        for plot in ("scores", "det", "speakers", "leakage"):
            image = out / f"{plot}_{condition}.png"
            assert image.read_bytes().startswith(b"\x89PNG")
    # Seeds are put together in every task.
    means = select(rows, seed="all", measure=("eer", "accuracy"))
    assert {row["task"] for row in means} == set(TASKS)
    for mean in means:
        number = ("value", "low", "high", "seed")
        of = {key: mean[key] for key in mean if key not in number}
        values = [select(rows, **of, seed=seed)[0]["value"] for seed in (1, 2)]
        assert mean["value"] == pytest.approx(np.mean(values))
    assert len((out / "trials.txt").read_text().splitlines()) == 240
    page = (out / "report.html").read_text()  # 8 figures, 10 pairs
    assert page.count("<img") == 8 and page.count("<audio") == 20


def test_two_processes_write_what_one_does(evaluate, everything):
    """To the byte, of the same features."""
    one, *_, features = everything
    options = (f"--cache_folder={features}", *ALL_TASKS)
    two, *_ = evaluate(*options, names=ALL_NAMES, call=in_two)
    assert evaluate.printed.count("report.html") == 1
    for path in (*one.glob("*.csv"), *one.glob("*.txt")):
        if path.name != "log.txt":
            text = path.read_text().replace(str(one), str(two))
            assert (two / path.name).read_text() == text, path.name
    names = [{path.name for path in out.iterdir()} for out in (one, two)]
    assert names[1] - names[0] <= {"evaluate.py"} and names[0] <= names[1]


def in_two(path, hparams, *options):
    """Of options that are given twice the last one, as in call_script."""
    chosen = {option.partition("=")[0]: option for option in options}
    return two_processes(path, hparams, *chosen.values())


def test_shards(small_grid, exports, tmp_path):
    for index in (0, 1):
        printed = call_script(
            RECIPE / "evaluate.py",
            "hparams/evaluate.yaml",
            f"--export_folder={exports / 'joint_1'}",
            f"--data_folder={small_grid}",
            f"--output_folder={tmp_path / 'out'}",
            f"--cache_folder={tmp_path / 'features'}",
            *("--device=cpu", "--noprogressbar", f"--shard=[{index}, 2]"),
        )
        assert f"Shard [{index}, 2] is encoded" in printed
    found = {path.name for path in tmp_path.glob("features/*/features*")}
    assert found == {f"features-{part}-of-2.npy" for part in range(2)}
    assert not (tmp_path / "out/results.csv").exists()


def test_everything_by_hand(everything, small_grid, exports):
    """From the cached features and an export, step by step."""
    out, _, rows, features = everything
    manifest = {row["ID"]: row for row in read_csv(small_grid / "manifest.csv")}
    ids = [key for key, row in manifest.items() if row["split"] == "test"]
    free = [key for key in manifest if key not in ids]
    training = [key for key in free if manifest[key]["split"] == "train"]
    words = [manifest[key]["content"] for key in training]
    speakers = [manifest[key]["speaker"] for key in ids]
    contents = [manifest[key]["content"] for key in ids]
    trials = generate_trials(speakers, contents)
    model = SubspaceEncoder.from_hparams(source=str(exports / "joint_2"))
    head, caches = model.mods.embedding_model.network, cached_features(features)
    assert set(caches) == {None, 7000}
    for seed, condition in ((None, "recorded"), (7000, "channels")):
        pooled = caches[seed]
        head.fit_statistics(pooled.select(free))
        found = [
            {"baseline": x.flatten(1)}
            | {"baseline_standardised": head.standardiser(x).flatten(1)}
            | {f"joint {name} 2": one for name, one in head(x).items()}
            for x in (pooled.select(ids), pooled.select(training))
        ]
        table = read_csv(out / f"keywords_{condition}.csv")
        assert [row["ID"] for row in table] == ids
        assert [row["content"] for row in table] == contents
        for name, vectors in found[0].items():
            told = keyword_classification(
                found[1][name], words, vectors, contents
            )["predicted"]
            assert [row[name] for row in table] == told.tolist()
            wanted = {
                "content": nearest_value(vectors, contents, speakers),
                "keywords": told == np.asarray(contents),
                "leakage": linear_probe(vectors, speakers, contents, 3, 5),
            }
            asked = {"condition": condition, "seed": ("", 2)}
            ask = functools.partial(
                pick, rows, name.removesuffix(" 2"), **asked
            )
            eer, _ = equal_error_rate(trials.score(vectors), trials.label)
            assert ask(task="verification")["value"] == pytest.approx(eer)
            for task, right in wanted.items():
                target = "speaker" if task == "leakage" else "content"
                row = ask("accuracy", task=task, target=target)
                assert row["value"] == pytest.approx(np.mean(right))


def test_intervals_and_differences(evaluate):
    """All eight speakers: intervals around the values; one's own reference."""
    _, about, rows = evaluate(
        *("--tasks=verification", "--conditions=recorded"),
        "--reference=only speaker",
        names=("joint_1", "joint_2", "only_1"),
    )
    assert about["domain_statistics"] == "grid"
    reference = pick(rows, "only speaker")["value"]
    for row in select(rows, measure="eer", group=""):
        assert row["low"] <= row["value"] <= row["high"] > row["low"]
        label, seed = f"{row['system']} {row['subspace']}".strip(), row["seed"]
        if label != "only speaker":
            found = pick(rows, label, "eer_difference", seed=seed)["value"]
            assert found == pytest.approx(row["value"] - reference)


def test_given_trials(evaluate, tmp_path):
    trials = tmp_path / "trials.txt"
    trials.write_text("1 s6_c1_0 s6_c2_0\n0 s6_c1_0 s7_c1_0.wav\n")
    options = f"--trials={trials}", "--domain_statistics=target"
    _, about, rows = evaluate(*FEW, *options, "--export_names=[mine]")
    where = "target: 91 utterances that are in no trial"
    assert about["domain_statistics"] == where
    ask = functools.partial(pick, rows, "mine speaker")
    assert (ask()["n"], ask()["list"]) == (2, str(trials))
    assert ask()["value"] in (0.0, 1.0)
    assert ask("false_alarm", group="same content")["n"] == 1
    assert ask("miss", group="different content")["n"] == 1


def test_several_lists_of_trials(evaluate, tmp_path):
    """Each has its own rows, table, figures and files."""
    lines = {
        "easy": ["1 s6_c1_0 s6_c2_0", "0 s6_c1_0 s7_c1_0"],
        "hard": ["1 s7_c1_0 s7_c2_0", "0 s6_c2_0 s7_c2_0", "0 s0_c1_0 s6_c3_0"],
    }
    for name, trials in lines.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(trials) + "\n")
    paths = [str(tmp_path / f"{name}.txt") for name in lines]
    options = f"--trials=[{', '.join(paths)}]", "--domain_statistics=target"
    out, about, rows = evaluate(
        *FEW, *options, "--score_files=[voxceleb, kaldi]"
    )
    # What is in a trial of either list is not counted as unused.
    assert about["domain_statistics"].startswith("target: 88 utterances")
    report = (out / "report.txt").read_text()
    for (name, trials), path in zip(lines.items(), paths):
        found = pick(rows, "joint speaker", list=path)
        assert found["n"] == len(trials)
        assert report.count(f"Trials: {path}\n") == 1
        assert f"verification of speaker ({path}): 1 target trials" in report
        assert (out / f"scores_{name}_recorded.png").is_file()
        assert (out / f"det_{name}_recorded.png").is_file()
        written = (out / f"trials_{name}.txt").read_text().splitlines()
        assert written == [
            re.sub(r"(s\w+)", r"\1.wav", line) for line in trials
        ]
        folder = out / f"scores/{name}_recorded"
        scored = (folder / "joint-speaker-1.txt").read_text().splitlines()
        assert [line.rsplit(" ", 1)[0] for line in scored] == written
        values = [float(line.split()[3]) for line in scored]
        labels = [int(line[0]) for line in scored]
        eer, _ = equal_error_rate(values, labels)
        assert found["value"] == pytest.approx(eer)
        # Kaldi's pair of files says the same.
        kaldi = (folder / "joint-speaker-1.scores").read_text().splitlines()
        pairs = [line.split(" ", 1)[1] for line in trials]
        assert [line.rsplit(" ", 1)[0] for line in kaldi] == pairs
        assert [float(line.split()[2]) for line in kaldi] == values
        kinds = [line.split()[2] for line in (folder / "trials").open()]
        assert kinds == [["nontarget", "target"][label] for label in labels]
        assert len(list(folder.iterdir())) == 2 * 4 + 1
    (tmp_path / "other").mkdir()
    other = tmp_path / "other/easy.txt"
    other.write_text("\n".join(lines["easy"]))
    with pytest.raises(SystemExit):
        evaluate(*FEW, f"--trials=[{paths[0]}, {other}]")


def test_own_trials(evaluate, small_grid, tmp_path):
    """What the options of the trials change."""
    header, *lines = (small_grid / "manifest.csv").read_text().splitlines()
    lines = [f"{line},{'mf'[int(line[1]) % 2]}" for line in lines]
    manifest = tmp_path / "sexes.csv"
    manifest.write_text("\n".join([f"{header},sex", *lines]))
    out, about, rows = evaluate(
        *(*FEW, f"--manifest={manifest}", "--gender_factor=sex"),
        *("--same_gender=True", "--different_content=False"),
        *("--max_targets=90", "--max_nontargets=70"),
        "--domain_statistics=target",
    )
    # Too few utterances are in no trial.
    assert "transductive" in about["domain_statistics"]
    ask = functools.partial(pick, rows, "joint speaker")
    assert (ask("miss")["n"], ask("false_alarm")["n"]) == (90, 70)
    groups = {row["group"] for row in select(rows, task="verification")}
    contents = {"same content", "different content"}
    assert groups == {"", "f-f", "m-m"} | contents
    assert sum(ask(group=group)["n"] for group in contents) == 160
    lines = (out / "trials.txt").read_text().splitlines()
    assert len(lines) == 160
    for line in lines:
        label, one, two = line.split()
        assert (label == "1") == (one[:2] == two[:2])
        assert int(one[1]) % 2 == int(two[1]) % 2


@pytest.mark.parametrize("scoring", ["s-norm", "plda"])
def test_scoring_with_a_cohort(evaluate, scoring, capfd):
    options = *FEW, "--evaluated_split=test"
    asked = f"--scoring={scoring}", "--cohort_split=train"
    _, about, rows = evaluate(*options, *asked)
    assert about["scoring"] == scoring
    assert {row["backend"] for row in select(rows, measure="eer")} == {scoring}
    _, _, plain = evaluate(*options)
    found, cosine = (
        [row["value"] for row in select(table, measure="eer", group="")]
        for table in (rows, plain)
    )
    assert len(found) == 4 and found != cosine
    with pytest.raises(SystemExit):  # the cohort may not be evaluated
        evaluate(*FEW, *asked)
    assert "speaker(s) are in several splits" in capfd.readouterr().err


def test_cohort_of_another_corpus(evaluate, small_grid, tmp_path, capfd):
    """The same speakers under other names are the same as a split's.

    Their recordings are copies, which may not be evaluated either.
    """
    header, *lines = (small_grid / "manifest.csv").read_text().splitlines()
    lines = [line for line in lines if line.endswith("train")]
    # Names that the evaluated corpus has too, for other people.
    names = {"s0": "s6", "s1": "s7", "s2": "s8", "s3": "s9"}
    rows = []
    for line in lines:
        key, wav, seconds, speaker, *_ = line.split(",")
        rows.append(
            {
                "utt": f"s{len(rows)}",
                "wav": shutil.copy(small_grid / wav, tmp_path),
                "duration": seconds,
                "who": names[speaker],
            }
        )
    write_csv(tmp_path / "manifest.csv", rows)
    options = *FEW, "--evaluated_split=test", "--scoring=plda"
    own = (
        f"--cohort_data={tmp_path}",
        "--cohort_columns={ID: utt, speaker: who}",
    )
    _, about, found = evaluate(*options, *own)
    assert about["cohort_data"] == str(tmp_path)
    _, _, split = evaluate(*options, "--cohort_split=train")
    found, split = (
        {
            (row["system"], row["subspace"], row["measure"]): row["value"]
            for row in table
            if not row["group"]
        }
        for table in (found, split)
    )
    assert found == pytest.approx(split)
    measures = {measure for *_, measure in found}
    assert {"cllr", "actual_dcf"} <= measures  # PLDA gives ratios
    with pytest.raises(SystemExit):
        evaluate(*FEW, "--scoring=plda", *own)
    assert "wav(s) are in several splits" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        evaluate(*options, "--cohort_data=absent")
    assert "No manifest absent" in capfd.readouterr().err


def test_speaker_encoders(evaluate, tmp_path, capfd):
    """A row of its own in each task, as the encoder gives it."""
    folder = str(save_ecapa(tmp_path / "tiny"))
    ecapa = f"{{encoder: ecapa, encoder_source: {folder}}}"
    asked = f"--speaker_encoders=[{ecapa}]"
    options = f"--tasks=[{', '.join(TASKS)}]", "--domain_statistics=target"
    options += "--evaluated_split=test", "--probe_folds=2", FEW[1]
    _, about, rows = evaluate(
        *options, asked, "--trust=True", "--reference=ecapa-tiny"
    )
    assert about["exports"] == ["joint"]
    for task in TASKS:
        labels = labels_of(rows, task=task, measure=("eer", "accuracy"))
        assert (labels[0], labels[-1]) == ("baseline", "ecapa-tiny")
    encoder = load_encoder("ecapa", folder)
    assert (
        pick(rows, "ecapa-tiny", "dimension", task="")["value"] == encoder.dim
    )
    assert "ecapa-tiny" not in {
        row["system"] for row in select(rows, measure="mcnemar_p")
    }
    # By itself, with statistics of a target domain or not
    plain = *FEW, "--evaluated_split=test", "--export_folder=null", asked
    eers = [pick(rows, "ecapa-tiny", task="verification")["value"]]
    for domain in ("grid", "target"):
        _, about, alone = evaluate(
            *plain, "--trust=True", f"--domain_statistics={domain}"
        )
        assert about["exports"] == []
        assert {row["system"] for row in alone} == {"ecapa-tiny"}
        eers.append(pick(alone, "ecapa-tiny")["value"])
    assert len(set(eers)) == 1
    for option, message in (
        ("--trust=False", "load it with trust=True"),
        ("--speaker_encoders=[mini]", "'mini' has 5 layers, of which none"),
        ("--speaker_encoders=[{encodr: ecapa}]", "speaker_encoders is [{'enc"),
        ("--speaker_encoders=[{encoder_source: x}]", "encoder among them"),
        (
            "--speaker_encoders=[{encoder: ecapa, encoder_pooling: max}]",
            "speaker_encoders is [{'encoder': 'ecapa', 'encoder_pooling'",
        ),
        ("--speaker_encoders=[]", "No export_folder: give"),
        ("--speaker_encoders=[log_mel, log_mel]", "are called 'log_mel'"),
    ):
        with pytest.raises(SystemExit):
            evaluate(*plain, option)
        assert message in capfd.readouterr().err


def test_calibrated_exports(evaluate, exports):
    """Their scores are likelihood ratios, whose cost gets rows."""
    model = SubspaceEncoder.from_hparams(source=str(exports / "joint_1"))
    model.hparams.calibration = {"speaker": [20.0, -15.0]}
    model.save(exports / "calibrated")
    out, _, rows = evaluate(*FEW, names=("calibrated",))
    [row] = select(rows, measure="cllr")
    least = pick(rows, "joint speaker", "min_cllr")
    assert row["subspace"] == "speaker" and row["value"] > least["value"]
    assert "| Cllr, bits" in (out / "report.txt").read_text()
    # Statistics of other recordings change the scores.
    _, _, rows = evaluate(
        *FEW, "--domain_statistics=target", names=("calibrated",)
    )
    assert not select(rows, measure="cllr")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """A folder of the official layout; speaker 3 validates, 4 and 5 test."""
    folder = tmp_path_factory.mktemp("commands")
    lines = {"validation_list.txt": [], "testing_list.txt": []}
    for number, word in enumerate([*KEYWORDS, "bed", "bird", "cat"]):
        (folder / word).mkdir()
        for speaker in range(6):
            name = f"{word}/{speaker:08x}_nohash_0.wav"
            wave = voiced(speaker, number, seconds=0.3)
            soundfile.write(folder / name, wave, 16000)
            if speaker >= 3:
                lines[list(lines)[speaker > 3]].append(name)
    (folder / "_background_noise_").mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).normal(0, 0.1, 40000)
        path = folder / f"_background_noise_/noise{number}.wav"
        soundfile.write(path, noise, 16000)
    for name, listed in lines.items():
        (folder / name).write_text("\n".join(listed))
    return folder


KEYWORDS = "yes no up down left right on off stop go".split()
ON_COMMANDS = "--speech_commands=True", "--tasks=[keywords]"


def test_speech_commands_keywords(evaluate, commands):
    """The 12-class task; its test split unless told otherwise."""
    options = f"--data_folder={commands}", "--conditions=[recorded]"
    _, about, rows = evaluate(*ON_COMMANDS, *options)
    assert about["protocol"] is None
    assert about["utterances"] == 2 * 13 + 2  # pieces of silence
    recall = select(rows, measure="recall", system="baseline")
    counts = {row["group"]: row["n"] for row in recall}
    unknown = {"_unknown_": 2 * 3, "_silence_": 2}
    assert counts == dict.fromkeys(KEYWORDS, 2) | unknown
    assert pick(rows, "baseline", "balanced_accuracy")["value"] > 2 / 12


def test_published_keywords(evaluate, commands):
    """By the published protocol there is no silence in the test."""
    options = f"--data_folder={commands}", "--protocol=published"
    out, about, rows = evaluate(
        *ON_COMMANDS, *options, names=("joint_1", "joint_2")
    )
    assert about["protocol"] == "published"
    assert {row["condition"] for row in rows} == {"recorded"}
    [chance] = select(rows, measure="chance")
    [majority] = select(rows, measure="majority")
    assert chance["value"] == 1 / 12 and chance["n"] == 2 * 13
    assert majority["value"] == pytest.approx(3 / 13)
    words = {row["group"] for row in select(rows, measure="recall")}
    assert words == {*KEYWORDS, "_unknown_"}
    means = select(rows, measure="accuracy", seed="all")
    assert {row["subspace"] for row in means} == {"speaker", "content"}
    backends = {row["backend"] for row in select(rows, measure="accuracy")}
    assert backends.isdisjoint({"logistic regression", ""})
    manifest = read_csv(out / "manifest.csv")
    kinds = [(row["content"], row["split"]) for row in manifest]
    assert kinds.count(("_silence_", "train")) == 1800
    assert kinds.count(("_silence_", "valid")) == 200
    report = (out / "report.txt").read_text()
    assert "published protocol" in report
    assert "majority 23.1 %" in report and "macro f1 %" in report


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


def on_voxceleb(folder):
    options = "--voxceleb1=True", "--tasks=[verification]"
    return f"--data_folder={folder}", *options


@pytest.mark.parametrize("protocol", ["null", "published"])
def test_voxceleb(evaluate, voxceleb, protocol):
    """From the folder alone: trials, and rows of ordered gender pairs."""
    options = f"--protocol={protocol}"
    out, about, rows = evaluate(*on_voxceleb(voxceleb), options)
    channels = {"channels"} if protocol == "null" else set()
    assert {row["condition"] for row in rows} == {"recorded"} | channels
    ask = functools.partial(pick, rows, "joint speaker")
    assert (ask()["n"], ask("miss")["n"], ask("false_alarm")["n"]) == (
        21,
        6,
        15,
    )
    for group, nontargets in (("f-f", 3), ("f-m", 6), ("m-f", 3), ("m-m", 3)):
        assert ask("false_alarm", group=group)["n"] == nontargets
        both = {"measure": ("eer", "miss"), "group": group}
        assert bool(select(rows, **both)) == (group in ("f-f", "m-m"))
    assert (out / "manifest.csv").is_file()
    # The cleaned list and the original one give different numbers.
    trials = str(voxceleb / "veri_test2.txt")
    assert about["trials"] == [ask()["list"]] == [trials]
    assert f"trials: {trials}" in (out / "report.txt").read_text()


def test_all_lists_of_voxceleb(evaluate, voxceleb):
    """VoxCeleb1-O, -E and -H in one call, each with its gender pairs."""
    lines = (voxceleb / "veri_test2.txt").read_text().splitlines()
    for name, count in (("list_test_all2.txt", 20), ("list_test_hard.txt", 10)):
        (voxceleb.parent / name).write_text("\n".join(lines[:count]) + "\n")
    options = *on_voxceleb(voxceleb), "--conditions=recorded"
    out, about, rows = evaluate(*options)
    stems = ["veri_test2", "list_test_all2", "list_test_hard"]
    assert [path.rsplit("/", 1)[1][:-4] for path in about["trials"]] == stems
    for path, stem, count in zip(about["trials"], stems, (21, 20, 10)):
        assert pick(rows, "joint speaker", list=path)["n"] == count
        groups = {row["group"] for row in select(rows, list=path)}
        assert {"f-f", "f-m", "m-f", "m-m"} & groups
        assert (out / f"det_{stem}_recorded.png").is_file()
    # The published protocol has the first one.
    _, published, _ = evaluate(*options, "--protocol=published")
    assert published["trials"] == about["trials"][:1]
    asked = f"--trials=[{', '.join(about['trials'][1:])}]"
    _, about, again = evaluate(*options, asked)
    assert len(about["trials"]) == 2
    for path in about["trials"]:
        one, other = (
            pick(x, "joint speaker", list=path) for x in (rows, again)
        )
        assert one["value"] == other["value"]


def test_voxceleb_without_genders(evaluate, voxceleb):
    """No table: no rows, and that is said. One condition needs no list."""
    (voxceleb.parent / "vox1_meta.csv").unlink()
    out, _, rows = evaluate(*on_voxceleb(voxceleb), "--conditions=recorded")
    assert {row["condition"] for row in rows} == {"recorded"}
    assert not [row for row in rows if row["group"]]
    assert "no rows of gender pairs" in (out / "log.txt").read_text()


@pytest.mark.parametrize("option, message", [
    ("tasks=[content]", "add --tasks='[verification]'"),
    ("speech_commands=True", "choose one of them"),
    ("voxceleb1_meta=absent.csv", "No file absent.csv"),
    ("trials=absent.txt", "No file absent.txt"),
    ("protocol=own", "Unknown name 'own' for hparams/protocols"),
    ("conditions=[noisy]", "conditions is ['noisy']: expected"),
])  # fmt: skip
def test_bad_voxceleb(evaluate, voxceleb, option, message, capfd):
    with pytest.raises(SystemExit):
        evaluate(*on_voxceleb(voxceleb), f"--{option}")
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("option, message", [
    ("export_folder=null", "No export_folder"),
    ("export_folder=nowhere", "No export in 'nowhere'"),
    ("tasks=[]", "tasks is []: expected verification or content or"),
    ("tasks=[magic]", "tasks is ['magic']: expected"),
    ("tasks=[content, content]", "tasks is ['content', 'content']: expected"),
    ("task=[content]", "Unknown option --task"),
    ("scoring=magic", "Unknown name 'magic' for hparams/evaluation"),
    ("scoring=plda", "Scoring 'plda' needs a cohort"),
    ("cohort_data=GRID", "cohort_data is 'GRID': expected null, as scoring is"),
    ("cohort_split=train", "cohort_split is 'train': expected null, as"),
    ("speech_commands=True", "add --tasks='[keywords]'"),
    ("tasks=[keywords]", "4 speaker(s) are in several splits"),
    ("evaluated_split=unseen", "No utterance in split 'unseen'"),
    ("content_factor=null", "Task 'content' needs a content factor"),
    ("content_factor=word", "no column 'word'"),
    ("leakage_factors=[speaker, mood]", "no column 'mood'"),
    ("leakage_factors=[speaker]", "two different columns or more"),
    ("trials=FOLDER/same.txt --tasks=[content]", "but no task reads it"),
    ("score_files=[kaldi] --tasks=[content]", "score_files is ['kaldi'], but"),
    (
        "cohort_data=FOLDER --scoring=plda --tasks=[content]",
        "but no task reads it",
    ),
    ("output_folder=FOLDER/training", "settings.json is of a training or of"),
    ("precision=bf16", "This script does not read --precision: leave it out"),
    ("leakage_factors=[speaker, ID]", "each not one of ID, wav"),
    ("content_factor=ID", "content_factor is 'ID': expected null or not one"),
    ("leakage_factors=speaker", "two different columns or more"),
    ("domain_statistics=mine", "expected grid or target"),
    ("probe_folds=1", "probe_folds is 1: expected a whole number of 2"),
    ("reference=joint", "Unknown reference 'joint'"),
    ("manifest=absent.csv", "No manifest absent.csv"),
    ("trials=FOLDER/stranger.txt", "stranger"),
    ("trials=FOLDER/inverted.txt", "1 of 1 labels contradict"),
    ("trials=FOLDER/alike.txt", "1 of 1 trials are targets: error rates"),
    ("trials=FOLDER/same.txt", "1 of 2 trials pair an utterance with itself"),
    ("score_files=[htk]", "score_files is ['htk']: expected null or a list"),
    ("trials=[]", "trials is []: expected null or a text or a list"),
    ("resamples=1", "resamples is 1: expected 0 or a whole number of 2"),
    ("manifest=FOLDER/empty.csv", "no rows"),
    ("manifest=FOLDER/single.csv", "1 speaker(s)"),
])  # fmt: skip
def test_bad_input(evaluate, small_grid, tmp_path, option, message, capfd):
    header, *rows = (small_grid / "manifest.csv").read_text().splitlines()
    for name, lines in {
        "stranger.txt": ["1 s6_c1_0 stranger"],
        "inverted.txt": ["0 s6_c1_0 s6_c2_0"],
        "alike.txt": ["1 s6_c1_0 s6_c2_0"],
        "same.txt": ["1 s6_c1_0 s6_c2_0", "1 s6_c1_0 s6_c1_0"],
        "empty.csv": [header],
        "single.csv": [header, *(row for row in rows if ",s6," in row)],
    }.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    (tmp_path / "training/save").mkdir(parents=True)
    (tmp_path / "training/save/settings.json").touch()
    option = f"--{option}".replace("FOLDER", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        evaluate(*re.split(" (?=--)", option))
    assert ended.value.code == 1
    [line] = [x for x in capfd.readouterr().err.splitlines() if "ERROR" in x]
    assert message in line
    assert not (evaluate.out / "results.json").exists()


def test_leakage_that_cannot_be_probed_loses_nothing_else(evaluate):
    options = "--evaluated_split=test", "--leakage_factors=[speaker, split]"
    out, _, rows = evaluate(*options, "--tasks=[content, leakage]")
    assert select(rows, task="content", measure="accuracy")
    assert not select(rows, task="leakage", measure=("accuracy", "eer"))
    assert not list(out.glob("leakage_*.png"))


def test_a_task_that_cannot_be_done_is_left_out_and_said(
    evaluate, small_grid, tmp_path, capfd
):
    """Where no content repeats, all neighbours would be wrong."""
    header, *rows = (small_grid / "manifest.csv").read_text().splitlines()
    columns = header.split(",")
    rows = [dict(zip(columns, row.split(","))) for row in rows]
    for number, row in enumerate(rows):
        row["content"] = f"c{number}"
    write_csv(tmp_path / "unique.csv", rows)
    own = f"--manifest={tmp_path}/unique.csv"
    out, about, found = evaluate(own, "--conditions=recorded")
    (said,) = about["left_out"]
    assert said.startswith("content is left out: content retrieval: no value")
    assert said in (out / "report.txt").read_text()
    assert {row["task"] for row in found} == {"", "verification", "leakage"}
    with pytest.raises(SystemExit):
        evaluate(own, "--tasks=[content]")
    assert "No task can be done: content" in capfd.readouterr().err


def test_two_encoders_in_one_table(evaluate, exports):
    other = load_encoder("log_mel", overrides={"encoder": {"n_mels": 40}})
    network = SubspaceNetwork([1, 280], ["speaker"], {"speaker": 4}, [])
    export_subspaces(exports / "small", other, network, [0], name="small")
    _, _, rows = evaluate(*FEW, names=("joint_1", "small"))
    assert labels_of(rows, measure="eer") == [
        "baseline_1",
        "baseline_standardised_1",
        "joint speaker 1",
        "joint content 1",
        "baseline_2",
        "small speaker",
    ]
