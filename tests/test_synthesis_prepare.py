"""The prepare script of the recipe InterventionalTTS."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import soundfile
from conftest import ROOT
from helpers import Tones, check_grid, contents

from speechbrain_ext.synthesis.espeak import EspeakSynthesizer
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv

RECIPE = ROOT / "recipes/InterventionalTTS"
sys.path.append(str(RECIPE))
script = importlib.import_module("interventional_prepare")
SPLITS = {"train": (4, 5), "valid": (2, 3), "test": (3, 4)}
SIZES = {
    f"n_{split}_{what}": size
    for split, sizes in SPLITS.items()
    for what, size in zip(("voices", "sentences"), sizes)
}


def prepare(folder, **changes):
    """A small grid; the rows of its manifest."""
    options = {"backend": Tones(), "seed": 7, **SIZES, **changes}
    script.prepare_interventional_tts(folder, **options)
    return read_csv(folder / "manifest.csv")


def test_manifest(tmp_path):
    rows = prepare(tmp_path)
    columns = "ID wav duration speaker content split text"
    assert list(rows[0]) == columns.split()
    assert len({row["ID"] for row in rows}) == len(rows)
    assert not any("/" in row["ID"] for row in rows)
    for row in rows:
        info = soundfile.info(tmp_path / row["wav"])
        assert info.samplerate == 16000 and info.channels == 1
        assert float(row["duration"]) == pytest.approx(info.duration)
    variants = {voice.ID: voice.variant for voice in Tones().voices()}
    for row in rows:
        row["variant"] = variants[row["speaker"]]
    check_grid(rows, ("speaker", "content", "text", "variant"), SPLITS)


def test_a_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        prepare(tmp_path / name, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a").keys() != contents(tmp_path / "c").keys()


def test_a_finished_grid_is_left_alone(tmp_path, monkeypatch):
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


def test_an_interruption_leaves_no_manifest(tmp_path):
    text = prepare(tmp_path / "whole")[2]["text"]
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "part", backend=Tones(broken=text), num_workers=1)
    assert not (tmp_path / "part/manifest.csv").exists()
    assert len(list((tmp_path / "part").rglob("*.wav"))) == 2
    prepare(tmp_path / "part")
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


@pytest.mark.skipif(os.name != "posix", reason="looks for a process group")
def test_a_killed_call_is_continued(tmp_path):
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
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):  # its workers end, too
        for _ in range(300):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    assert not (tmp_path / "part/manifest.csv").exists()
    for name in ("part", "whole"):
        script.prepare_interventional_tts(tmp_path / name, None, *sizes)
    # What was being written has hidden names.
    part = contents(tmp_path / "part").items()
    part = {name: data for name, data in part if "/." not in name}
    assert part == contents(tmp_path / "whole")


def test_other_settings_need_another_folder(tmp_path):
    prepare(tmp_path)
    before = contents(tmp_path)
    newer = Tones()
    newer.settings = {"backend": "tones", "version": "2"}
    for change, named in (
        ({"n_train_voices": 5}, r"voices: train \(4 entries, now 5 entries\)"),
        ({"seed": 8}, r"seed \(7, now 8\)"),
        ({"sample_rate": 8000}, r"sample_rate \(16000, now 8000\)"),
        ({"backend": newer}, r"version \(None, now 2\)"),
    ):
        with pytest.raises(InputError, match=named):
            prepare(tmp_path, **change)
    assert contents(tmp_path) == before


def test_the_manifest_may_lie_elsewhere(tmp_path):
    lists, data = tmp_path / "lists/grid.csv", tmp_path / "data"
    assert prepare(data, manifest=lists) == []
    assert (data / read_csv(lists)[0]["wav"]).is_file()
    assert not (data / "manifest.csv").exists()


def test_foreign_files_are_not_touched(tmp_path):
    (tmp_path / "wav").mkdir()
    with pytest.raises(InputError, match="wav that was not made here"):
        prepare(tmp_path)
    (tmp_path / "grid_settings.json").write_text("[1")
    with pytest.raises(InputError, match="grid_settings.json is damaged"):
        prepare(tmp_path)
    (tmp_path / "wav").rmdir()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("ID,wav\nx,y.wav\n")
    with pytest.raises(InputError, match="something else"):
        prepare(tmp_path)
    assert "y.wav" in manifest.read_text()
    with pytest.raises(InputError, match="is a file"):
        prepare(manifest, manifest=tmp_path / "other.csv")


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


def test_rates_are_a_third_factor(tmp_path):
    rows = prepare(tmp_path, backend=Tempi(), rates=[100, 200, 400])
    columns = "ID wav duration speaker content rate split text"
    assert list(rows[0]) == columns.split()
    check_grid(rows, ("speaker", "content", "text"), SPLITS, 3)
    # The levels are the same in all splits.
    levels = {(row["split"], row["rate"]) for row in rows}
    assert {rate for _, rate in levels} == {"100", "200", "400"}
    assert len(levels) == 9
    for row in rows:
        assert row["ID"] == "{speaker}_{content}_r{rate}".format(**row)
        assert row["wav"] == "wav/{speaker}/{ID}.wav".format(**row)
        length = len(row["text"]) * 100 / 8000 * 100 / int(row["rate"])
        assert float(row["duration"]) == pytest.approx(length, abs=1e-3)
        info = soundfile.info(tmp_path / row["wav"])
        assert info.duration == float(row["duration"])


def test_rates_leave_the_grid_without_them_as_it_is(tmp_path):
    """Same voices and sentences; at the default rate also the same audio."""
    plain = prepare(tmp_path / "plain", backend=Tempi())
    rated = prepare(tmp_path / "rated", backend=Tempi(), rates=[100, 200])
    assert "rate" not in plain[0]
    settings = json.loads((tmp_path / "plain/grid_settings.json").read_text())
    assert settings["rate"] == 100
    same = [row for row in rated if row["rate"] == "100"]
    for one, other in zip(plain, same, strict=True):
        assert one["ID"] + "_r100" == other["ID"]
        for column in ("speaker", "content", "split", "text", "duration"):
            assert one[column] == other[column]
        wavs = (
            tmp_path / "plain" / one["wav"],
            tmp_path / "rated" / other["wav"],
        )
        assert wavs[0].read_bytes() == wavs[1].read_bytes()


def test_a_grid_with_rates_is_continued(tmp_path, monkeypatch):
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
        ([100, 200], r"rate \(\[100, 300\], now \[100, 200\]\)"),
        (None, r"rate \(\[100, 300\], now 100\)"),
    ):
        with pytest.raises(InputError, match=named):
            prepare(tmp_path, backend=Tempi(), rates=rates)
    assert contents(tmp_path) == before


def test_espeak_at_rates(tmp_path):
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
        ({"n_train_voices": 500}, "500 voices were asked for train"),
        ({"n_test_voices": 0}, "n_test_voices is 0"),
        ({"n_valid_sentences": 0}, "n_valid_sentences is 0"),
        ({"rates": [100]}, "two or more different"),
        ({"rates": [100, 100]}, "two or more different"),
        ({"rates": 100}, "two or more different"),
        ({"rates": [100, 200], "backend": Tones()}, "Tones cannot be set"),
    ],
)
def test_impossible_grids(tmp_path, change, named):
    with pytest.raises(InputError, match=named):
        prepare(tmp_path, **{"backend": Tempi(), **change})
    assert contents(tmp_path) == {}


def test_default_grid_fits_the_voices():
    pytest.importorskip("espeakng_loader")
    voices = EspeakSynthesizer().voices()
    for seed in range(40):
        counts = {"train": (32, 48)[seed % 2], "valid": 8, "test": 16}
        drawn = script.split_voices(voices, counts, seed)
        assert {split: len(part) for split, part in drawn.items()} == counts
        variants = [{v.variant for v in drawn[split]} for split in counts]
        assert len(set.union(*variants)) == sum(map(len, variants))
        genders = {voice.gender for voice in drawn["test"]}
        assert genders == {"female", "male"}


def test_settings_name_the_versions(tmp_path):
    pytest.importorskip("espeakng_loader")
    prepare(tmp_path, backend=None)
    settings = json.loads((tmp_path / "grid_settings.json").read_text())
    assert settings["backend"] == "espeak-ng"
    assert {"espeakng-loader", "rate", "sample_rate", "seed"} <= set(settings)


def test_examples_in_the_docstrings():
    # In a process of its own: other tests import this module by another path.
    command = [sys.executable, "-m", "doctest", "-v", script.__file__]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "prepare_interventional_tts" in done.stdout


def test_shards(tmp_path):
    """Each call renders its voices; the one that finds all writes the table."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    prepare(whole)
    options = {"backend": Tones(), "seed": 7, **SIZES}
    call = script.prepare_interventional_tts
    assert call(parts, shard=(1, 3), **options) is False
    assert call(parts, shard=(0, 3), **options) is False
    assert not (parts / "manifest.csv").exists()
    assert call(parts, shard=(2, 3), **options) is True
    assert contents(parts) == contents(whole)
    assert call(parts, shard=(0, 3), **options) is True  # nothing is left
