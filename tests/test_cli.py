"""The command line: what each command prints, writes and refuses."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import voiced

from speechbrain_ext.cli import commands, main
from speechbrain_ext.dataio import feature_cache
from speechbrain_ext.inference.subspaces import SubspaceEncoder, load_export
from speechbrain_ext.metrics.trials import cosine_scores


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Thirty clips, five of each of six speakers, and a bad file."""
    folder = tmp_path_factory.mktemp("speech")
    for speaker in range(6):
        (folder / f"s{speaker}").mkdir()
        for n in range(5):
            wave = voiced(speaker, n, 0, 0.4 + 0.1 * n)
            soundfile.write(folder / f"s{speaker}/{n}.wav", wave, 16000)
    lines = [
        f"{int(a == b)} s{a}/{i}.wav s{b}/{j}.wav\n"
        for a in range(6)
        for b in range(a, 6)
        for i, j in ((0, 1), (2, 4))
    ]
    (folder / "trials.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Call a command in an empty folder: (exit status, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def command(*words):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words)])
        return ended.value.code or 0, *capsys.readouterr()

    return command


def test_verify(call, speech):
    model = SubspaceEncoder.from_packaged(run_opts={"device": "cpu"})
    pair = speech / "s0/0.wav", speech / "s0/1.wav"
    score, same = model.verify_files(*pair)
    status, out, _ = call("verify", *pair, "--json")
    said = json.loads(out)
    assert status == 0 and set(said) == {"score", "threshold", "same"}
    assert said["score"] == pytest.approx(score.item(), abs=1e-5)
    assert said["same"] is same.item()
    assert said["threshold"] == model.threshold()
    _, out, _ = call("verify", *pair, "--threshold", -1, "--subspace=content")
    assert out.startswith("the same content: score ")
    _, out, _ = call("verify", *pair, "--threshold", 0, "--json")
    assert json.loads(out)["threshold"] == 0
    _, out, _ = call("verify", *pair, "--threshold", 1)
    assert out.startswith("not the same speaker: score ")
    _, out, _ = call("verify", *pair, "--false-accepts", 0.1, "--json")
    assert json.loads(out)["threshold"] == model.threshold(None, 0.1)


def test_embed_goes_on_where_it_was_interrupted(call, speech, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    def interrupt_late(_, parts, *__):
        next(parts)  # when all is encoded
        interrupt()

    command = "embed", speech / "s0", "--out", "x.npz", "--quiet"
    with monkeypatch.context() as patch:
        patch.setattr(commands, "write_vectors", interrupt_late)
        assert call(*command)[0] == 130
    monkeypatch.setattr(feature_cache, "_encode", interrupt)  # what is there
    assert call(*command)[:2] == (0, "x.npz: 5 vectors of 150 numbers\n")


def test_shards_of_embed_are_one_call(call, speech):
    command = "embed", speech, "--quiet", "--out", "x.npz"
    call(*command)
    for index in (1, 0):
        status, out, _ = call(*command, "--shard", f"[{index}, 2]")
        assert (status, out.split(":")[0]) == (0, f"x-{index}-of-2.npz")
    parts = [np.load(f"x-{index}-of-2.npz") for index in range(2)]
    whole = np.load("x.npz")
    ids = [part["ids"] for part in parts]
    assert np.array_equal(np.concatenate(ids), whole["ids"])
    vectors = np.concatenate([part["vectors"] for part in parts])
    assert np.allclose(vectors, whole["vectors"], atol=1e-5)
    for shard, message in (("[2, 2]", "shard is"), ("[0, 99]", "is empty")):
        status, _, errors = call(*command, "--shard", shard)
        assert status == 1 and message in errors


def test_embed_lists_what_is_bad(call, speech, tmp_path):
    """From files, folder and list; a second call is of what is there now."""
    files = [speech / f"s1/{n}.wav" for n in range(3)]
    (tmp_path / "bad.wav").write_text("no audio")
    out = tmp_path / "x.npz"
    status, said, errors = call("embed", *files, "bad.wav", "--out", out)
    assert status == 3 and "3 vectors of 150 numbers" in said
    assert "left out: " in errors and "bad.wav" in errors
    arrays = np.load(out)
    assert arrays["ids"].tolist() == [str(path) for path in files]
    want = load_export("packaged", "cpu").encode_file(files)[:, 0]
    assert np.allclose(arrays["vectors"], want, atol=1e-4)
    (tmp_path / "list.txt").write_text("s1/1.wav\n")
    status, said, _ = call(
        *("embed", "list.txt", "--data-folder", speech, "--out", out, "--json"),
        *("--subspace", "content"),
    )
    said = json.loads(said)
    assert (status, said["shape"], said["left_out"]) == (0, [1, 100], {})
    assert not (tmp_path / "x.npz.cache").exists()


def test_outputs_replace_nothing_else(call, speech, tmp_path):
    """What is read, and files of another kind, stay; a suffix is kept."""
    pair = speech / "s0/0.wav", speech / "s1/0.wav"
    call("enrol", "team.npz", "ann", pair[0], "--quiet")
    call("embed", *pair, "--out", "X.NPZ", "--quiet")
    assert np.load("X.NPZ")["vectors"].shape == (2, 150)
    assert not list(tmp_path.glob(".X*"))
    (tmp_path / "trials.txt").write_text(" ".join(map(str, pair)))
    before = {x: x.read_bytes() for x in tmp_path.iterdir() if x.is_file()}
    score = "score", "trials.txt", "--vectors", "X.NPZ"
    for words, message in (
        (["embed", *pair, "--out", "team.npz"], "would be lost"),
        ([*score, "--out", "trials.txt"], "is read"),
        ([*score, "--out", "X.NPZ"], "is read"),
        ([*score, "--subspace", "content"], "leave out"),
        (["export", "packaged", "--onnx", "trials.txt"], ".onnx"),
        (["embed", speech, pair[0], "--out", "y.npz"], "is a folder"),
        (["adapt", "packaged", speech, "X.NPZ/mine"], "cannot be written"),
    ):
        status, _, errors = call(*words)
        assert status == 1 and message in errors
    after = {x: x.read_bytes() for x in tmp_path.iterdir() if x.is_file()}
    assert after == before


def test_windows(call, tmp_path):
    soundfile.write("long.wav", voiced(0, 0, 0, 33), 16000)
    call("embed", "long.wav", "--windows", "--out", "w.npz", "--quiet")
    arrays = np.load(tmp_path / "w.npz")
    assert arrays["begin"].tolist() == [0, 10, 20]
    assert arrays["end"].tolist() == [20, 30, 33]
    assert len(arrays["vectors"]) == len(arrays["ids"]) == 3


def test_score(call, speech, tmp_path):
    """The same from stored vectors and from files, labelled or not."""
    trials = speech / "trials.txt"
    call("embed", speech, "--out", "x.npz", "--quiet")
    _, stored, summary = call("score", trials, "--vectors", "x.npz")
    lines = [line.split() for line in stored.splitlines()]
    arrays = np.load(tmp_path / "x.npz")
    row = {key: n for n, key in enumerate(arrays["ids"].tolist())}
    sides = [[row[line[side]] for line in lines] for side in (1, 2)]
    want = cosine_scores(arrays["vectors"], *sides)
    assert np.allclose([float(line[3]) for line in lines], want, atol=1e-6)
    assert "42 trials, EER " in summary
    status, said, _ = call(
        *("score", trials, "--data-folder", speech, "--json"),
        *("--out", "scores.txt", "--quiet"),
    )
    said = json.loads(said)
    assert status == 0 and 0 <= said["eer"] < 0.5 and "scores" not in said
    fresh = (tmp_path / "scores.txt").read_text().split()[3::4]
    assert np.allclose(np.array(fresh, float), want, atol=1e-4)
    # A file by two names.
    (tmp_path / "names.txt").write_text("./s0/0.wav s0/0.wav")
    words = "score", "names.txt", "--data-folder", speech, "--quiet"
    _, said, _ = call(*words)
    assert float(said.split()[2]) == pytest.approx(1)
    unlabelled = [f"{line[1]} {line[2]}" for line in lines]
    (tmp_path / "pairs.txt").write_text("\n".join(unlabelled))
    _, said, _ = call("score", "pairs.txt", "--vectors", "x.npz", "--json")
    assert set(json.loads(said)) == {"trials", "scores"}
    query = "score", trials, "--vectors", "x.npz", "--subspace", "content"
    assert "leave out --export and --subspace" in call(*query)[2]


def test_enrol_and_identify(call, speech, tmp_path):
    for name in ("s0", "s1"):
        clips = [speech / name / f"{n}.wav" for n in range(3)]
        _, out, _ = call("enrol", "team.npz", name, *clips, "--quiet", "--json")
        assert json.loads(out)["clips"] == 3
    # Files of the same name in two folders are two clips, those of two paths
    # one.
    for name in ("s0", "s1"):
        folder = speech / "s2" / ".." / name
        _, out, _ = call("enrol", "team.npz", name, folder, "--quiet", "--json")
        assert json.loads(out)["clips"] == 5
    heard = [speech / f"s{n}/4.wav" for n in (0, 1)]
    query = "identify", "team.npz", *heard, "--quiet", "--json"
    _, out, _ = call(*query, "--threshold", -1)
    assert [row["name"] for row in json.loads(out)] == ["s0", "s1"]
    _, out, _ = call(*query, "--threshold", 1)
    assert [row["name"] for row in json.loads(out)] == [None, None]
    status, _, errors = call(*query, "--threshold", "nan")
    assert status == 1 and "threshold is nan" in errors
    status, _, errors = call(*query, "--subspace", "content")
    assert status == 1 and "another export or subspace" in errors


def test_adapt_calibrate_info(call, speech, tmp_path):
    adapt = "adapt", "packaged", speech, "mine", "--quiet"
    status, out, _ = call(*adapt, "--false-accepts", 0.1, "--json")
    said, mine = json.loads(out), load_export("mine", "cpu")
    assert status == 0 and set(said) == {"out", "thresholds"}
    for subspace, threshold in said["thresholds"].items():
        assert threshold == mine.threshold(subspace, 0.1)
    call(
        *("calibrate", "mine", speech / "trials.txt", "calibrated"),
        *("--data-folder", speech, "--quiet"),
    )
    _, out, _ = call("info", "calibrated", "--json")
    known = json.loads(out)
    assert known["name"] == "recommended_adapted"
    assert set(known["subspaces"]) == {"speaker", "content"}
    assert list(known["calibration"]) == ["speaker"]
    _, out, _ = call("info", "calibrated")
    assert "of pairs" in out and "of recordings" in out
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").touch()
    for command in (
        ["adapt", "packaged", speech, "thesis"],
        ["calibrate", "packaged", speech / "trials.txt", "thesis"],
    ):
        status, _, errors = call(*command, "--quiet")
        assert status == 1 and "which would be lost" in errors
    assert (tmp_path / "thesis/chapter.tex").exists()


def test_evaluate_and_report(call, speech, tmp_path):
    """The recipe's script, on a folder of speakers; its page, made again."""
    # A process of its own: SpeechBrain's log goes to what is stderr now.
    command = [sys.executable, "-m", "speechbrain_ext", "evaluate", speech]
    command += ["--out=found", "--tasks=[verification]", "--device=cpu"]
    command += ["--conditions=[recorded]", "--resamples=0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| recommended_adapted" in done.stderr
    assert json.loads(done.stdout)["rows"]
    page = tmp_path / "found/report.html"
    page.unlink()
    call("report", "found")
    assert "recommended_adapted" in page.read_text(encoding="utf-8")


def test_export(call, tmp_path):
    pytest.importorskip("onnx")
    status, out, _ = call("export", "packaged", "--onnx", "m.onnx")
    assert status == 0 and (tmp_path / "m.onnx").stat().st_size > 1e6


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["verify", "a.wav"], 2, "the following arguments are required: b"),
        (["verify", "a.wav", "b.wav", "--subpsace=x"], 2, "--subpsace"),
        (["verify", "a.wav", "b.wav"], 1, "no file"),
        (["verify", "a", "b", "--export=nowhere/x/y"], 1, "No export in"),
        (["verify", "a", "b", "--subspace=accent"], 1, "subspace 'accent'"),
        (["verify", "a", "b", "--false-accepts=0.3"], 1, "false_accepts"),
        (["embed", "a.wav", "--out=x.csv"], 1, "written as .npz"),
        (["embed", "nowhere/", "--out=x.npz"], 1, "nowhere"),
        (["embed", "a.wav", "--out=x.npz", "--batch-size=0"], 1, "batch-size"),
        (
            ["adapt", "packaged", ".", "x", "--subspace=content"],
            2,
            "--subspace",
        ),
        (["score", "none.txt"], 1, "none.txt"),
        (["identify", "team.npz", "a.wav"], 1, "no store team.npz"),
        (["push", "packaged", "no/id/this"], 1, "no/id/this"),
        (["report", "nowhere"], 1, "nowhere"),
    ],
)
def test_bad_input_ends_in_one_line(call, words, status, message):
    found, out, errors = call(*words)
    assert (found, out) == (status, "") and message in errors
    assert len(errors.splitlines()) == 1 or status == 2


def test_output_that_nobody_reads_is_no_defect(capsys, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as out, pytest.raises(SystemExit) as ended:
        monkeypatch.setattr(sys, "stdout", out)
        main(["info"])
    assert ended.value.code == 141
    assert "nobody reads" in capsys.readouterr().err


def test_help_is_quick_and_shows_examples():
    """Help and usage do without the libraries that take seconds."""
    code = (
        "import sys; from speechbrain_ext.cli import make_parser; "
        "make_parser().format_help(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    shown = subprocess.run(
        [sys.executable, "-m", "speechbrain_ext", "embed", "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert (
        "  interventional embed a.wav b.wav --out vectors.npz" in shown.stdout
    )
