"""The 12-class task on a small folder that the test builds."""

import collections

import numpy as np
import pytest
import soundfile
from conftest import ROOT, load_script

from speechbrain_ext.dataio.audio import check_audio
from speechbrain_ext.dataio.manifest import load_manifest
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import write_csv

script = load_script(
    ROOT / "recipes/Google-speech-commands/keywords_prepare.py"
)
speech_commands_rows = script.speech_commands_rows
SPLITS = {"train": 6, "valid": 2, "test": 2}  # speakers, two clips a word
LISTS = "validation_list.txt", "testing_list.txt"
WORDS = [*script.KEYWORDS, "bed", "zero", "follow"]


@pytest.fixture
def folder(tmp_path):
    """Speech Commands with short noises for clips, and six noise files."""
    rng = np.random.default_rng(0)

    def write(path, samples):
        path.parent.mkdir(exist_ok=True)
        noise = 0.1 * rng.standard_normal(samples)
        soundfile.write(path, noise, 16000, subtype="PCM_16")

    lists = collections.defaultdict(list)
    for word in WORDS:
        for split, count in SPLITS.items():
            for speaker in range(count):
                for take in range(2):
                    name = f"{word}/{split}{speaker}_nohash_{take}.wav"
                    write(tmp_path / name, 200 + 10 * take)
                    lists[split].append(name)
    for name, split in zip(LISTS, ("valid", "test")):
        (tmp_path / name).write_text("\n".join(lists[split]) + "\n")
    for number in range(6):
        write(tmp_path / f"_background_noise_/noise{number}.wav", 16000 * 2)
    (tmp_path / "_background_noise_/README.md").write_text("noise")
    return tmp_path


def silence(folder, seed=0, **options):
    """The pieces of silence, which are a second of a recording each."""
    rows = speech_commands_rows(folder, seed, **options)
    assert len({row["ID"] for row in rows}) == len(rows)
    rows = [row for row in rows if row["content"] == "_silence_"]
    for row in rows:
        assert row["stop"] - row["start"] == 16000 and row["duration"] == 1
        assert 0 <= row["start"] and row["stop"] <= 32000
    return rows


def test_every_clip_is_kept_in_its_official_split(folder):
    rows = speech_commands_rows(folder)
    assert all(list(row) == script.COLUMNS for row in rows)
    clips = [row for row in rows if row["content"] != "_silence_"]
    assert len(clips) == len(WORDS) * 10 * 2
    for row in clips:
        word, name = row["wav"].split("/")
        known = word in script.KEYWORDS
        assert row["content"] == (word if known else "_unknown_")
        assert name.startswith(row["split"]) and name.startswith(row["speaker"])
        assert row["stop"] == (200 if name.endswith("_0.wav") else 210)
        assert row["duration"] == row["stop"] / 16000
    contents = {row["content"] for row in rows}
    assert contents == {*script.KEYWORDS, "_unknown_", "_silence_"}
    counts = collections.Counter((r["content"], r["split"]) for r in rows)
    write_csv(folder / "manifest.csv", rows)
    dataset = load_manifest(
        folder / "manifest.csv", None, ["speaker", "content"]
    )
    check_audio(dataset, 16000, resample=False)
    assert len(dataset.data) == len(rows)
    for split, speakers in SPLITS.items():
        for content, words in (("yes", 1), ("_silence_", 1), ("_unknown_", 3)):
            assert counts[content, split] == words * 2 * speakers


def test_silence_is_seeded_and_its_recordings_are_divided(folder):
    rows = silence(folder, silence_share=0.5)
    files = collections.defaultdict(set)
    for row in rows:
        files[row["split"]].add(row["wav"])
    assert [len(files[s]) for s in ("train", "valid", "test")] == [3, 1, 2]
    assert len(set.union(*files.values())) == 6
    assert len({(row["wav"], row["start"]) for row in rows}) == len(rows)
    assert silence(folder, 0, silence_share=0.5) == rows
    assert silence(folder, 1, silence_share=0.5) != rows


def test_published_silence_shares_its_recordings(folder):
    counts = {"silence_counts": {"train": 40, "valid": 20, "test": 0}}
    rows = silence(folder, 1, **counts)
    found = collections.Counter(row["split"] for row in rows)
    assert found == {"train": 40, "valid": 20}
    for split in found:
        wavs = {row["wav"] for row in rows if row["split"] == split}
        assert len(wavs) > 3  # of six; divided, validation would have one
    assert rows == silence(folder, 1, **counts)
    assert rows != silence(folder, 2, **counts)


def test_two_noise_recordings_leave_none_for_validation(folder):
    for number in range(4):
        (folder / f"_background_noise_/noise{number}.wav").unlink()
    assert {row["split"] for row in silence(folder)} == {"train", "test"}
    (folder / "_background_noise_/noise4.wav").unlink()
    with pytest.raises(InputError, match="1 noise recordings"):
        speech_commands_rows(folder)


CLIP = "no/valid0_nohash_0.wav"


def without_a_keyword(folder):
    (folder / "go").rename(folder / "going")
    for path in folder.glob("*_list.txt"):
        path.write_text(path.read_text().replace("go/", "going/"))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / LISTS[0]).unlink(), f"no {LISTS[0]}"),
        (lambda f: (f / CLIP).unlink(), f"1 clips .* first {CLIP}"),
        (without_a_keyword, "no clips of go"),
        (lambda f: (f / CLIP).write_bytes(b"no"), f"{CLIP} is not readable"),
        (lambda f: (f / LISTS[1]).write_text(CLIP), "'valid0' in test and"),
    ],
)
def test_folders_that_are_refused(folder, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=message):
        speech_commands_rows(folder)
