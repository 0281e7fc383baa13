"""The whole recipe on a small recorded grid, and on the Arabic one."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT

from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.utils.errors import InputError, one_line_errors

RECIPE = ROOT / "recipes/InterventionalTTS/post-training"
SMALL = [
    "--train_block={speaker: 3, content: 4}",
    "--subspace_widths={speaker: 12, content: 10}",
    "--number_of_epochs=3",
    "--device=cpu",
    "--noprogressbar",
]


@pytest.fixture
def train(monkeypatch):
    """The script's ``main``, as the command line calls it."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.chdir(RECIPE)
    spec = importlib.util.spec_from_file_location("train", RECIPE / "train.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train", module)
    spec.loader.exec_module(module)

    def run(*arguments):
        # Each option once: an argument of the test replaces the default.
        chosen = {a.split("=")[0]: a for a in [*SMALL, *arguments]}
        with one_line_errors():
            module.main(["hparams/recorded_grid.yaml", *chosen.values()])

    return run


def folders(data, work):
    return [
        f"--data_folder={data}",
        f"--output_folder={work / 'out'}",
        f"--cache_folder={work / 'features'}",
    ]


@pytest.fixture(scope="module")
def finished(small_grid, tmp_path_factory):
    """One run by the command line itself."""
    work = tmp_path_factory.mktemp("run")
    command = [sys.executable, "train.py", "hparams/recorded_grid.yaml"]
    done = subprocess.run(
        [*command, *SMALL, *folders(small_grid, work)],
        cwd=RECIPE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return work, done.stdout


def test_results(finished):
    work, printed = finished
    results = json.loads((work / "out/results.json").read_text())
    assert results["grid"] == {
        "factors": {"speaker": 4, "content": 6},
        "utterances": 46,
        "augmented_takes": 2,
        "network_takes": 0,
    }
    assert list(results["systems"]) == [
        "baseline",
        "baseline_standardised",
        "published",
        "recommended",
        "grid_lda",
        "pca",
        "random_projection",
    ]
    dims = {"speaker": 12, "content": 10}
    lda = {"speaker": 3, "content": 5}  # one less than there are values
    for system, entry in results["systems"].items():
        for name, subspace in entry["subspaces"].items():
            expected = 560 if "baseline" in system else dims[name]
            if system in ("grid_lda", "recommended"):
                expected = lda[name]
            assert subspace["dim"] == expected
            for condition in ("clean", "shifted"):
                measured = subspace[condition]
                verification = measured["verification"]
                # 2 speakers x 6 contents x 2 takes, across contents.
                assert verification["trials"] == 2 * 60 + 12 * 10
                assert 0 <= verification["eer"] <= 1
                assert 0 <= verification["min_dcf"] <= 1
                assert measured["content"]["chance"] == pytest.approx(1 / 6)
                assert 0 <= measured["content"]["accuracy"] <= 1
        assert system in printed
    # The buzzes differ in pitch: even a few steps must find that.
    joint = results["systems"]["published"]["subspaces"]["speaker"]
    assert joint["clean"]["verification"]["eer"] < 0.35


def test_files(finished):
    out = finished[0] / "out"
    for name in (
        "train_log.txt",
        "env.log",
        "log.txt",
        "hyperparams.yaml",
        "train.py",
        "save/best/network.ckpt",
        "save/last/network.ckpt",
        "export/hyperparams.yaml",
        "export/network.ckpt",
        "export_published/network.ckpt",
        "export_grid_lda/network.ckpt",
    ):
        assert (out / name).is_file(), name
    for name in ("scores_clean.png", "scores_shifted.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    exported = (out / "export/hyperparams.yaml").read_text()
    assert str(finished[0]) not in exported and str(ROOT) not in exported


def test_export(finished, small_grid, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(finished[0] / "out/export", moved)
    model = SubspaceEncoder.from_hparams(source=str(moved))
    assert model.subspaces == ["speaker", "content"]
    wavs = torch.randn(3, 8000)
    lens = torch.tensor([1.0, 0.5, 0.8])
    speaker = model.encode_batch(wavs, lens, subspace="speaker")
    assert speaker.shape == (3, 1, 3)
    assert model.encode_batch(wavs, subspace="content").shape == (3, 1, 5)
    alone = model.encode_batch(wavs[1, :4000])
    assert torch.allclose(speaker[1], alone[0], rtol=1e-4, atol=1e-5)
    paths = [str(small_grid / f"wav/s7_c{i}_0.wav") for i in (1, 2)]
    one = model.encode_file(paths[0])
    assert one.shape == (1, 1, 3)
    score, decision = model.verify_files(*paths)
    other = model.encode_file(paths[1])
    expected = torch.cosine_similarity(one[0], other[0])
    assert torch.allclose(score, expected)
    assert decision.dtype == torch.bool
    assert decision == (score > model.hparams.thresholds["speaker"])
    with pytest.raises(InputError, match="has speaker, content"):
        model.encode_batch(wavs, subspace="accent")
    content = SubspaceEncoder.from_hparams(
        source=str(moved), overrides={"subspace": "content"}
    )
    assert content.encode_batch(wavs).shape == (3, 1, 5)


def test_target_statistics(finished, small_grid):
    model = SubspaceEncoder.from_hparams(source=str(finished[0] / "out/export"))
    path = str(small_grid / "wav/s7_c1_0.wav")
    before = model.encode_file(path)
    model.estimate_statistics(small_grid / "manifest.csv")
    after = model.encode_file(path)
    assert not torch.allclose(before, after)
    again = model.estimate_statistics(small_grid / "manifest.csv")
    assert torch.equal(after, again.encode_file(path))


def test_stock_classes_load_the_export(finished):
    from speechbrain.inference import EncoderClassifier, SpeakerRecognition

    folder = str(finished[0] / "out/export")
    ours = SubspaceEncoder.from_hparams(source=folder)
    wavs = torch.randn(2, 8000)
    for stock in (EncoderClassifier, SpeakerRecognition):
        model = stock.from_hparams(
            source=folder, overrides={"subspace": "content"}
        )
        expected = ours.encode_batch(wavs, subspace="content")
        assert torch.equal(model.encode_batch(wavs), expected)
    score, _ = model.verify_batch(wavs[:1], wavs[1:])
    assert score.shape == (1, 1)


def test_second_run_recomputes_nothing(finished, small_grid, train, capfd):
    work = finished[0]
    first = (work / "out/results.json").read_text()
    stamps = {
        path: path.stat().st_mtime_ns
        for path in (work / "features").rglob("features.npy")
    }
    assert len(stamps) == 4  # as recorded, two takes, shifted
    train(*folders(small_grid, work))
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert json.loads(first) == json.loads(
        (work / "out/results.json").read_text()
    )


def test_one_factor_head(finished, small_grid, train):
    work = finished[0]
    train(
        f"--data_folder={small_grid}",
        f"--output_folder={work / 'speaker_only'}",
        f"--cache_folder={work / 'features'}",
        "--factors=[speaker]",
        "--system_name=speaker_only",
    )
    results = json.loads((work / "speaker_only/results.json").read_text())
    assert list(results["systems"]["speaker_only"]["subspaces"]) == ["speaker"]


def test_options(small_grid, train, tmp_path):
    """No takes, layer mixture, residual, last checkpoint, no split column."""
    manifest = tmp_path / "manifest.csv"
    lines = (small_grid / "manifest.csv").read_text().splitlines()
    manifest.write_text("\n".join(l.rsplit(",", 1)[0] for l in lines))
    train(
        *folders(small_grid, tmp_path),
        f"--manifest={manifest}",
        "--augmented_takes=0",
        "--network={layer_mixture: True, residual_width: 4}",
        "--checkpoint=last",
        "--loss={orthogonality: cka}",
        "--extraction={dtype: float16}",
        "--train_block={speaker: 2, content: 3}",
        "--split={ratios: [0.5, 0.25, 0.25]}",
        "--debug",
    )
    assert (tmp_path / "out/results.json").is_file()


def break_grid(folder, how):
    """Damage a copy of the grid in one way."""
    manifest = folder / "manifest.csv"
    text = manifest.read_text()
    wav = folder / "wav/s1_c1_0.wav"
    if how == "missing column":
        text = text.replace("speaker", "talker", 1)
    elif how == "duplicate":
        text += text.splitlines()[1] + "\n"
    elif how == "missing wav":
        wav.unlink()
    elif how == "unreadable wav":
        wav.write_bytes(b"nonsense")
    elif how == "empty wav":
        soundfile.write(wav, np.zeros(0), 16000)
    elif how == "rate":
        soundfile.write(wav, np.zeros(4000), 8000)
    elif how == "nan":
        samples = np.full(4000, np.nan, dtype=np.float32)
        soundfile.write(wav, samples, 16000, subtype="FLOAT")
    elif how == "one value":
        lines = text.splitlines()
        text = "\n".join([lines[0]] + [l for l in lines if ",c1," in l] + [""])
    manifest.write_text(text)


@pytest.mark.parametrize(
    "how, options, message",
    [
        ("missing column", [], "no column 'speaker'"),
        ("duplicate", [], "occurs twice"),
        ("missing wav", [], "'s1_c1_0': no file"),
        ("unreadable wav", [], "no readable audio"),
        ("empty wav", [], "is empty"),
        ("rate", ["--resample=False"], "8000 Hz, expected 16000"),
        ("nan", [], "NaN or infinite"),
        ("one value", [], "Factor 'content' of the train grid has 1"),
        ("", ["--train_block={speaker: 9}"], "block of 9 values"),
        ("", ["--encoder=nonsense"], "nonsense"),
        ("", ["--layers=[3]"], "layer"),
        ("", ["--factors=[accent]"], "No width for subspace 'accent'"),
        ("", ["--content_factor=word"], "'word' is not one of grid_factors"),
        ("", ["--sede=3"], "Unknown option --sede"),
        ("", ["--network={layer_mixtre: True}"], "layer_mixtre"),
        ("", ["--loss={orthogonality: nice}"], "Unknown form 'nice'"),
        ("", ["--extraction={dtype: int8}"], "Unknown dtype 'int8'"),
        ("", ["--train_block={speaker: 1, content: 1}"], "nothing to compare"),
        ("", ["--checkpoint=first"], "expected best or last"),
        ("", ["--network_takes=3"], "network_takes is 3"),
        ("", ["--exported=joint"], "expected published or recommended"),
    ],
)
def test_bad_input_is_one_line(
    small_grid, train, tmp_path, capfd, how, options, message
):
    data = tmp_path / "grid"
    shutil.copytree(small_grid, data)
    break_grid(data, how)
    with pytest.raises(SystemExit) as ended:
        train(*folders(data, tmp_path), *options)
    assert ended.value.code == 1
    lines = [l for l in capfd.readouterr().err.splitlines() if "ERROR" in l]
    assert len(lines) == 1
    assert lines[0].startswith("ERROR: ") and message in lines[0]
    # Nothing that looks like a result, and no cache that looks complete.
    assert not (tmp_path / "out/results.json").exists()
    assert not (tmp_path / "out/export").exists()


def test_a_folder_holds_one_run(finished, small_grid, train, capfd):
    """Checkpoints of other options are not taken for those of this run."""
    before = (finished[0] / "out/results.json").read_text()
    for option, name in (
        ("--augmented_takes=1", "augmented_takes"),
        ("--recommended={shrinkage: 0.5}", "recommended"),
        ("--network={layer_mixture: True}", "network"),
        ("--number_of_epochs=4", "number_of_epochs"),
    ):
        with pytest.raises(SystemExit):
            train(*folders(small_grid, finished[0]), option)
        assert f"another {name}" in capfd.readouterr().err
    assert (finished[0] / "out/results.json").read_text() == before


def test_a_failed_or_debug_call_does_not_claim_the_folder(
    small_grid, train, tmp_path
):
    both = folders(small_grid, tmp_path)
    with pytest.raises(SystemExit):
        train(*both, "--train_block={speaker: 9}")
    train(*both, "--debug", "--augmented_takes=0")
    # Tags may stand in options too.
    train(*both, "--train_log=!ref <save_folder>/l.txt")
    assert (tmp_path / "out/save/l.txt").is_file()


def test_missing_data_folder_is_said(train, capfd):
    with pytest.raises(SystemExit):
        train("--output_folder=unused")
    assert "needs --data_folder" in capfd.readouterr().err


def test_two_processes(small_grid, tmp_path):
    """Distributed training, with a single block a process and epoch."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [
            *torchrun,
            "--nproc_per_node=2",
            "train.py",
            "hparams/recorded_grid.yaml",
            *SMALL[1:],
            *folders(small_grid, tmp_path),
            "--train_block={speaker: 2, content: 6}",
            "--distributed_backend=gloo",
        ],
        cwd=RECIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len((tmp_path / "out/train_log.txt").read_text().splitlines()) == 3
    assert (tmp_path / "out/results.json").is_file()
    assert (tmp_path / "out/export/network.ckpt").is_file()


def test_arabic_grid_with_moonshine(shared, train, tmp_path):
    """The documented command, on a part of the grid."""
    data = shared / "data/arabic_speech_commands"
    lines = (data / "manifest.csv").read_text().splitlines()
    kept = [l for l in lines[1:] if l.split(",")[5] == "1"]
    words = sorted({l.split(",")[4] for l in kept})[:8]
    kept = [l for l in kept if l.split(",")[4] in words]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join([lines[0], *kept]))
    train(
        *folders(data, tmp_path),
        f"--manifest={manifest}",
        "--encoder=hf_encoder",
        f"--encoder_source={shared / 'models/moonshine-tiny-en'}",
        "--train_block={speaker: 9, content: 8}",
        "--layers=[0, 1]",
    )
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["grid"]["factors"] == {"speaker": 18, "content": 8}
    assert results["test_grid"]["utterances"] == 48
    export = tmp_path / "out/export"
    for text in (export / "hyperparams.yaml", tmp_path / "out/results.json"):
        assert str(shared) not in text.read_text()
    assert (export / "encoder.ckpt").stat().st_size > 1e7  # copied in
    model = SubspaceEncoder.from_hparams(source=str(export))
    assert model.encode_batch(torch.randn(1, 16000)).shape == (1, 1, 17)


@pytest.mark.parametrize(
    "chosen, layers, shrinkage",
    [
        ([], [2, 4], 0.95),
        (["--layers=[0]", "--recommended={shrinkage: 0.2}"], [0], 0.2),
    ],
)
def test_encoders_file_fills_in_what_was_not_chosen(
    train, small_grid, tmp_path, chosen, layers, shrinkage
):
    """The packaged encoder suggests layers, and a shrinkage of the head."""
    train(
        *folders(small_grid, tmp_path),
        "--encoder=mini",
        "--number_of_epochs=0",
        *chosen,
    )
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["layers"] == layers
    assert results["recommended"]["shrinkage"] == shrinkage
    claim = json.loads((tmp_path / "out/save/settings.json").read_text())
    assert claim["layers"] == layers
    assert claim["recommended"]["shrinkage"] == shrinkage


def test_model_cards(finished):
    """Each export says what it is and what this run measured of it."""
    work, _ = finished
    results = json.loads((work / "out/results.json").read_text())
    for folder, name in (
        ("export", "recommended"),
        ("export_published", "published"),
    ):
        card = (work / "out" / folder / "README.md").read_text()
        assert f"# {name}: subspaces of log_mel" in card
        heard = "with 2 augmented take(s)" in card
        assert heard == (name == "recommended")
        for system in ("baseline", name):
            for subspace, entry in results["systems"][system][
                "subspaces"
            ].items():
                cells = [system, subspace, str(entry["dim"])] + [
                    f"{100 * entry[condition][measure][key]:.1f}"
                    for measure, key in (
                        ("verification", "eer"),
                        ("content", "accuracy"),
                    )
                    for condition in ("clean", "shifted")
                ]
                assert f"| {' | '.join(cells)} |" in card


def test_without_a_choice_the_head_has_the_shrinkage_of_the_library(finished):
    work, _ = finished
    claim = json.loads((work / "out/save/settings.json").read_text())
    assert claim["recommended"]["shrinkage"] == 0.3
    assert claim["layers"] == [-1]


def test_without_epochs_there_is_no_network(train, small_grid, tmp_path):
    train(*folders(small_grid, tmp_path), "--number_of_epochs=0")
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert "published" not in results["systems"]
    assert "grid_lda" in results["systems"]
    assert not (tmp_path / "out/export_published").exists()
    assert (tmp_path / "out/export_pca/network.ckpt").is_file()
