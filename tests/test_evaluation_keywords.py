"""The 12-class task on a small folder that the test builds."""

import collections

import numpy as np
import pytest
import soundfile

from speechbrain_ext.dataio.manifest import check_audio, load_manifest
from speechbrain_ext.evaluation.keywords import (
    COLUMNS,
    KEYWORDS,
    keyword_classification,
    speech_commands_rows,
    write_rows,
)
from speechbrain_ext.utils.errors import InputError

SPLITS = {"train": 6, "valid": 2, "test": 2}  # speakers, two clips a word
WORDS = [*KEYWORDS, "bed", "zero", "follow"]


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
    (tmp_path / "validation_list.txt").write_text("\n".join(lists["valid"]))
    (tmp_path / "testing_list.txt").write_text("\n".join(lists["test"]) + "\n")
    for number in range(6):
        name = f"_background_noise_/noise{number}.wav"
        write(tmp_path / name, 16000 * 2)
    (tmp_path / "_background_noise_/README.md").write_text("noise")
    return tmp_path


def test_every_clip_is_kept_in_its_official_split(folder):
    rows = speech_commands_rows(folder)
    assert all(list(row) == COLUMNS for row in rows)
    assert len({row["ID"] for row in rows}) == len(rows)
    clips = [row for row in rows if row["content"] != "_silence_"]
    assert len(clips) == len(WORDS) * 10 * 2
    for row in clips:
        word, name = row["wav"].split("/")
        assert row["content"] == (word if word in KEYWORDS else "_unknown_")
        assert name.startswith(row["split"]) and name.startswith(row["speaker"])
        assert row["stop"] == (200 if name.endswith("_0.wav") else 210)
        assert row["duration"] == row["stop"] / 16000
    contents = {row["content"] for row in rows}
    assert contents == {*KEYWORDS, "_unknown_", "_silence_"}
    counts = collections.Counter((r["content"], r["split"]) for r in rows)
    for split, speakers in SPLITS.items():
        assert (
            counts["yes", split] == counts["_silence_", split] == 2 * speakers
        )
        assert counts["_unknown_", split] == 3 * 2 * speakers


def test_silence_is_seeded_and_its_recordings_are_divided(folder):
    def silence(seed):
        rows = speech_commands_rows(folder, seed, silence_share=0.5)
        return [row for row in rows if row["content"] == "_silence_"]

    rows = silence(0)
    files = collections.defaultdict(set)
    for row in rows:
        files[row["split"]].add(row["wav"])
        assert row["stop"] - row["start"] == 16000 and row["duration"] == 1
        assert 0 <= row["start"] and row["stop"] <= 32000
    assert [len(files[s]) for s in ("train", "valid", "test")] == [3, 1, 2]
    assert len(set.union(*files.values())) == 6
    assert len({(row["wav"], row["start"]) for row in rows}) == len(rows)
    assert silence(0) == rows
    assert silence(1) != rows


def test_published_silence_shares_its_recordings(folder):
    counts = {"train": 40, "valid": 20, "test": 0}
    rows = speech_commands_rows(folder, 1, silence_counts=counts)
    silence = [row for row in rows if row["content"] == "_silence_"]
    found = collections.Counter(row["split"] for row in silence)
    assert found == {"train": 40, "valid": 20}
    assert len({row["ID"] for row in rows}) == len(rows)
    for split in ("train", "valid"):
        wavs = {row["wav"] for row in silence if row["split"] == split}
        assert len(wavs) > 3  # of six; divided, validation would have one
    for row in silence:
        assert row["stop"] - row["start"] == 16000 and row["stop"] <= 32000
    again = speech_commands_rows(folder, 1, silence_counts=counts)
    assert rows == again
    assert rows != speech_commands_rows(folder, 2, silence_counts=counts)


def test_two_noise_recordings_leave_none_for_validation(folder):
    for number in range(4):
        (folder / f"_background_noise_/noise{number}.wav").unlink()
    rows = speech_commands_rows(folder)
    splits = {r["split"] for r in rows if r["content"] == "_silence_"}
    assert splits == {"train", "test"}
    (folder / "_background_noise_/noise4.wav").unlink()
    with pytest.raises(InputError, match="1 noise recordings"):
        speech_commands_rows(folder)


def test_rows_are_a_manifest(folder):
    path = folder / "manifest.csv"
    write_rows(path, speech_commands_rows(folder))
    dataset = load_manifest(path, factors=["speaker", "content"])
    check_audio(dataset, 16000, resample=False)
    row = dataset.data["bed/test0_nohash_0"]
    assert row["content"] == "_unknown_" and row["split"] == "test"
    with pytest.raises(InputError, match="no rows"):
        write_rows(path, [])


def test_incomplete_folders(folder):
    with pytest.raises(InputError, match="no validation_list.txt"):
        speech_commands_rows(folder / "yes")
    (folder / "no/valid0_nohash_0.wav").unlink()
    with pytest.raises(InputError, match="1 clips .* first no/valid0_nohash_0"):
        speech_commands_rows(folder)


def test_missing_keyword(folder):
    for path in (folder / "go").iterdir():
        path.unlink()
    for name in ("validation_list.txt", "testing_list.txt"):
        lines = (folder / name).read_text().split()
        kept = [line for line in lines if not line.startswith("go/")]
        (folder / name).write_text("\n".join(kept))
    with pytest.raises(InputError, match="no clips of go"):
        speech_commands_rows(folder)


def test_unreadable_clip(folder):
    (folder / "yes/train0_nohash_0.wav").write_bytes(b"nothing")
    with pytest.raises(InputError, match="train0_nohash_0.wav is no readable"):
        speech_commands_rows(folder)


def test_speaker_in_two_splits(folder):
    path = folder / "testing_list.txt"
    path.write_text(path.read_text() + "yes/train0_nohash_0.wav\n")
    with pytest.raises(InputError, match="'train0' in test and train"):
        speech_commands_rows(folder)


def blobs(counts, seed=0, shift=3.0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(list("abc"), counts)
    codes = np.repeat(np.arange(3), counts)
    return shift * np.eye(3, 6)[codes] + rng.normal(
        size=(len(codes), 6)
    ), labels


def test_measures_equal_those_of_the_confusion_matrix():
    test, labels = blobs([90, 20, 10], 1, shift=1.5)
    result = keyword_classification(*blobs([300, 50, 40]), test, labels)
    matrix = np.array(result["confusion"])
    assert result["classes"] == ["a", "b", "c"]
    assert matrix.sum(axis=1).tolist() == [90, 20, 10]
    hits = np.diag(matrix)
    recall, precision = hits / matrix.sum(axis=1), hits / matrix.sum(axis=0)
    assert result["accuracy"] == pytest.approx(hits.sum() / 120)
    assert result["accuracy"] == result["correct"].mean()
    assert result["balanced_accuracy"] == pytest.approx(recall.mean())
    f1 = 2 * recall * precision / (recall + precision)
    assert result["macro_f1"] == pytest.approx(f1.mean())
    assert (result["chance"], result["majority"]) == (1 / 3, 0.75)


def test_separable_and_useless_embeddings():
    train, labels = blobs([200, 200, 200], shift=50)
    assert keyword_classification(train, labels, train, labels)["macro_f1"] == 1
    noise = np.zeros((600, 4))
    useless = keyword_classification(noise, labels, noise, labels)
    assert useless["balanced_accuracy"] == pytest.approx(1 / 3)


def test_classes_that_the_test_lacks_do_not_count(recwarn):
    train, labels = blobs([50, 50, 50], shift=1)
    test, test_labels = blobs([50, 50, 0], 1, shift=1)
    result = keyword_classification(train, labels, test, test_labels)
    matrix = np.array(result["confusion"])
    assert matrix.shape == (3, 3) and matrix[:, 2].sum() > 0
    recall = (np.diag(matrix)[:2] / 50).mean()
    assert result["balanced_accuracy"] == pytest.approx(recall)
    assert not [w for w in recwarn if "y_pred" in str(w.message)]


def test_what_is_refused():
    train, labels = blobs([9, 9, 9])
    with pytest.raises(InputError, match="no training utterance, e.g. 'z'"):
        keyword_classification(train, labels, train[:1], ["z"])
    with pytest.raises(InputError, match="2 classes"):
        keyword_classification(train[:9], labels[:9], train[:9], labels[:9])
    with pytest.raises(InputError, match="6 dimensions, test embeddings 5"):
        keyword_classification(train, labels, train[:, :5], labels)
    with pytest.raises(InputError, match="'s0' in test and train"):
        speakers = [f"s{i}" for i in range(27)]
        keyword_classification(
            train, labels, train[:1], labels[:1], speakers, ["s0"]
        )
    with pytest.raises(InputError, match="one speaker for each of 28"):
        keyword_classification(train, labels, train[:1], labels[:1], [], ["x"])
    with pytest.raises(InputError, match="training labels: expected"):
        keyword_classification(train, labels[:5], train, labels)
