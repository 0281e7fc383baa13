"""The prepare script of the recipe InterventionalTTS."""

import csv
import doctest
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
from test_synthesis import Tones, contents

from speechbrain_ext.utils.errors import InputError

RECIPE = Path(__file__).parents[1] / "recipes/InterventionalTTS"
SIZES = dict(
    n_train_voices=4,
    n_train_sentences=5,
    n_valid_voices=2,
    n_valid_sentences=3,
    n_test_voices=3,
    n_test_sentences=4,
)


@pytest.fixture(scope="module")
def script():
    # By the link in the task folder, as train.py finds it.
    spec = importlib.util.spec_from_file_location(
        "interventional_prepare",
        RECIPE / "post-training/interventional_prepare.py",
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prepare(script):
    def run(folder, **changes):
        options = {"backend": Tones(), "seed": 7, **SIZES, **changes}
        script.prepare_interventional_tts(folder, **options)
        with open(folder / "manifest.csv", newline="") as file:
            return list(csv.DictReader(file))

    return run


def test_manifest(prepare, tmp_path):
    rows = prepare(tmp_path)
    assert list(rows[0]) == [
        "ID",
        "wav",
        "duration",
        "speaker",
        "content",
        "split",
        "text",
    ]
    assert len({row["ID"] for row in rows}) == len(rows)
    assert not any("/" in row["ID"] for row in rows)
    seen = {"speaker": [], "content": [], "text": [], "variant": []}
    variants = {voice.ID: voice.variant for voice in Tones().voices()}
    for split, (speakers, sentences) in dict(
        train=(4, 5), valid=(2, 3), test=(3, 4)
    ).items():
        part = [row for row in rows if row["split"] == split]
        cells = {(row["speaker"], row["content"]) for row in part}
        assert len(part) == len(cells) == speakers * sentences
        assert len({row["speaker"] for row in part}) == speakers
        assert len({row["content"] for row in part}) == sentences
        for row in part:
            row["variant"] = variants[row["speaker"]]
        for column in seen:
            seen[column].append({row[column] for row in part})
    for column, (train, valid, test) in seen.items():
        assert not (train & valid or train & test or valid & test), column
    for row in rows:
        info = soundfile.info(tmp_path / row["wav"])
        assert info.samplerate == 16000 and info.channels == 1
        assert float(row["duration"]) == pytest.approx(info.duration)


def test_a_seed_gives_the_same_bytes(prepare, tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        (tmp_path / name).mkdir()
        prepare(tmp_path / name, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a").keys() != contents(tmp_path / "c").keys()


def test_a_finished_grid_is_left_alone(prepare, script, tmp_path, monkeypatch):
    prepare(tmp_path)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(script, "render_cells", None)
        prepare(tmp_path)
        prepare(tmp_path, skip_prep=True, seed=99)
    assert contents(tmp_path) == before
    # A lost clip is rendered again.
    wav = tmp_path / prepare(tmp_path)[5]["wav"]
    wav.unlink()
    prepare(tmp_path)
    assert contents(tmp_path) == before


def test_an_interruption_leaves_no_manifest(prepare, tmp_path):
    (tmp_path / "whole").mkdir()
    text = prepare(tmp_path / "whole")[2]["text"]
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "part", backend=Tones(broken=text), num_workers=1)
    assert not (tmp_path / "part/manifest.csv").exists()
    assert len(list((tmp_path / "part").rglob("*.wav"))) == 2
    prepare(tmp_path / "part")
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


@pytest.mark.skipif(os.name != "posix", reason="kills a process group")
def test_a_killed_call_is_continued(script, tmp_path):
    pytest.importorskip("espeakng_loader")
    sizes = (4, 40, 1, 2, 1, 2)
    program = (
        f"import sys; sys.path.insert(0, {str(RECIPE)!r})\n"
        "from interventional_prepare import prepare_interventional_tts\n"
        f"prepare_interventional_tts({str(tmp_path / 'part')!r}, None, "
        f"*{sizes}, num_workers=2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        if len(list(tmp_path.rglob("*.wav"))) > 20:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "part/manifest.csv").exists()
    for name in ("part", "whole"):
        script.prepare_interventional_tts(tmp_path / name, None, *sizes)
    # What was being written has hidden names.
    part = {
        n: b for n, b in contents(tmp_path / "part").items() if "/." not in n
    }
    assert part == contents(tmp_path / "whole")


def test_other_settings_need_another_folder(prepare, tmp_path):
    prepare(tmp_path)
    before = contents(tmp_path)
    for change, named in (
        ({"n_train_voices": 5}, "4 -> 5 for train"),
        ({"seed": 8}, "seed: 7 there, 8 wanted"),
        ({"sample_rate": 8000}, "sample_rate: 16000 there"),
    ):
        with pytest.raises(InputError, match=named):
            prepare(tmp_path, **change)
    assert contents(tmp_path) == before


def test_another_backend_needs_another_folder(prepare, tmp_path):
    prepare(tmp_path)
    newer = Tones()
    newer.settings = {"backend": "tones", "version": "2"}
    with pytest.raises(InputError, match="version: None there, 2 wanted"):
        prepare(tmp_path, backend=newer)


def test_the_manifest_may_lie_elsewhere(script, tmp_path):
    lists, data = tmp_path / "lists/grid.csv", tmp_path / "data"
    script.prepare_interventional_tts(data, lists, backend=Tones(), **SIZES)
    with open(lists, newline="") as file:
        assert (data / next(csv.DictReader(file))["wav"]).is_file()
    assert not (data / "manifest.csv").exists()


def test_foreign_files_are_not_touched(prepare, tmp_path):
    (tmp_path / "wav").mkdir()
    with pytest.raises(InputError, match="did not make"):
        prepare(tmp_path)
    (tmp_path / "wav").rmdir()
    (tmp_path / "manifest.csv").write_text("ID,wav\nx,y.wav\n")
    with pytest.raises(InputError, match="something else"):
        prepare(tmp_path)
    assert "y.wav" in (tmp_path / "manifest.csv").read_text()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/grid_settings.json").write_text("[1")
    with pytest.raises(InputError, match="no settings file"):
        prepare(tmp_path / "odd")
    with pytest.raises(InputError, match="is a file"):
        prepare(tmp_path / "manifest.csv", manifest=tmp_path / "other.csv")


class Tempi(Tones):
    """A backend whose speaking rate can be set."""

    def __init__(self, rate=100):
        super().__init__()
        self.rate = rate
        self.settings = {"backend": "tempi", "rate": rate}

    def at_rate(self, rate):
        return Tempi(rate)

    def synthesize(self, text, voice):
        samples, sample_rate = super().synthesize(text, voice)
        return samples[: len(samples) * 100 // self.rate], sample_rate


def test_rates_are_a_third_factor(prepare, tmp_path):
    rows = prepare(tmp_path, backend=Tempi(), rates=[100, 200, 400])
    assert list(rows[0]) == [
        *("ID", "wav", "duration", "speaker", "content", "rate"),
        *("split", "text"),
    ]
    voices = {voice.ID: voice for voice in Tempi().voices()}
    for split, size in (("train", 4 * 5), ("valid", 2 * 3), ("test", 3 * 4)):
        part = [row for row in rows if row["split"] == split]
        cells = {(r["speaker"], r["content"], r["rate"]) for r in part}
        assert len(part) == len(cells) == 3 * size
        # The levels are the same in all splits.
        assert {row["rate"] for row in part} == {"100", "200", "400"}
    for row in rows:
        assert row["ID"] == "{speaker}_{content}_r{rate}".format(**row)
        assert row["wav"] == "wav/{speaker}/{ID}.wav".format(**row)
        assert row["speaker"] in voices
        length = len(row["text"]) * 100 / 8000 * 100 / int(row["rate"])
        assert float(row["duration"]) == pytest.approx(length, abs=1e-3)
        assert soundfile.info(tmp_path / row["wav"]).duration == float(
            row["duration"]
        )


def test_rates_leave_the_grid_without_them_as_it_is(prepare, tmp_path):
    """Same voices and sentences; at the default rate also the same audio."""
    for name in ("plain", "rated"):
        (tmp_path / name).mkdir()
    plain = prepare(tmp_path / "plain", backend=Tempi())
    rated = prepare(tmp_path / "rated", backend=Tempi(), rates=[100, 200])
    assert "rate" not in plain[0]
    settings = json.loads((tmp_path / "plain/grid_settings.json").read_text())
    assert settings["rate"] == 100
    same = [row for row in rated if row["rate"] == "100"]
    assert len(same) == len(plain)
    for one, other in zip(plain, same):
        assert one["ID"] + "_r100" == other["ID"]
        for column in ("speaker", "content", "split", "text", "duration"):
            assert one[column] == other[column]
        assert (tmp_path / "plain" / one["wav"]).read_bytes() == (
            tmp_path / "rated" / other["wav"]
        ).read_bytes()


def test_a_grid_with_rates_is_continued(prepare, script, tmp_path, monkeypatch):
    options = {"backend": Tempi(), "rates": [100, 300]}
    rows = prepare(tmp_path, **options)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(script, "render_cells", None)
        prepare(tmp_path, **options)
    # As after an interruption: no manifest, some clips are missing.
    (tmp_path / "manifest.csv").unlink()
    for row in rows[::7]:
        (tmp_path / row["wav"]).unlink()
    prepare(tmp_path, **options)
    assert contents(tmp_path) == before
    for rates, named in (
        ([100, 200], r"rate: \[100, 300\] there, \[100, 200\] wanted"),
        (None, r"rate: \[100, 300\] there, 100 wanted"),
    ):
        with pytest.raises(InputError, match=named):
            prepare(tmp_path, backend=Tempi(), rates=rates)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "backend, rates, named",
    [
        (Tempi(), [100], "two or more different"),
        (Tempi(), [100, 100], "two or more different"),
        (Tempi(), 100, "two or more different"),
        (Tones(), [100, 200], "Tones cannot be set"),
    ],
)
def test_impossible_rates(prepare, tmp_path, backend, rates, named):
    with pytest.raises(InputError, match=named):
        prepare(tmp_path, backend=backend, rates=rates)
    assert contents(tmp_path) == {}


def test_espeak_at_rates(prepare, tmp_path):
    """The same voice and sentence, clearly slower and faster."""
    pytest.importorskip("espeakng_loader")
    rows = prepare(tmp_path, backend=None, rates=[120, 175, 255])
    voices = {row["speaker"] for row in rows}
    assert len(voices) == 9 and not any("120" in voice for voice in voices)
    length = {
        (r["speaker"], r["content"], r["rate"]): float(r["duration"])
        for r in rows
    }
    for speaker, content, _ in length:
        slow, middle, fast = (
            length[speaker, content, rate] for rate in ("120", "175", "255")
        )
        assert slow > 1.25 * middle > 1.25**2 * fast
    with pytest.raises(InputError, match="no speaking rate 60"):
        prepare(tmp_path / "slow", backend=None, rates=[60, 120])


@pytest.mark.parametrize(
    "change, named",
    [
        ({"n_train_voices": 500}, "voices were asked for"),
        ({"n_test_voices": 0}, "n_test_voices is 0"),
        ({"n_valid_sentences": 0}, "n_valid_sentences is 0"),
    ],
)
def test_impossible_grids(prepare, tmp_path, change, named):
    with pytest.raises(InputError, match=named):
        prepare(tmp_path, **change)
    assert contents(tmp_path) == {}


def test_default_grid_fits_the_voices(script):
    pytest.importorskip("espeakng_loader")
    from speechbrain_ext.synthesis.espeak import EspeakSynthesizer

    voices = EspeakSynthesizer().voices()
    for seed in range(40):
        counts = {"train": (32, 48)[seed % 2], "valid": 8, "test": 16}
        drawn = script.split_voices(voices, counts, seed)
        assert {split: len(part) for split, part in drawn.items()} == counts
        variants = [{v.variant for v in drawn[split]} for split in counts]
        assert len(set.union(*variants)) == sum(map(len, variants))
        genders = {voice.gender for voice in drawn["test"]}
        assert genders == {"female", "male"}


def test_settings_name_the_versions(script, tmp_path):
    pytest.importorskip("espeakng_loader")
    sizes = [1, 2, 1, 2, 1, 2]
    script.prepare_interventional_tts(tmp_path, None, *sizes)
    settings = json.loads((tmp_path / "grid_settings.json").read_text())
    assert settings["backend"] == "espeak-ng"
    assert {"espeakng-loader", "rate", "sample_rate", "seed"} <= set(settings)


def test_examples_in_the_docstrings(script, monkeypatch):
    # doctest looks up there whether a function is the module's own.
    monkeypatch.setitem(sys.modules, script.__name__, script)
    results = doctest.testmod(script)
    assert results.attempted and not results.failed
