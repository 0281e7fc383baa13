"""The prepare script of the recipe LibriTTS."""

import doctest
import importlib
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from helpers import check_grid, contents
from libritts import build_libritts, sentence

from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv

sys.path.append(str(ROOT / "recipes/LibriTTS"))
script = importlib.import_module("libritts_grid_prepare")
SPLITS = {"train": (4, 12), "valid": (2, 7), "test": (1, 3)}
SIZES = {
    f"n_{split}_{what}": size
    for split, sizes in SPLITS.items()
    for what, size in zip(("speakers", "sentences"), sizes)
}
CELLS = 4 * 12 + 2 * 7 + 1 * 3


class Cloner:
    """Hums the reference's pitch for as long as the text takes."""

    settings = {"backend": "cloner", "version": 1}

    def __init__(self, broken=None):
        self.broken = broken
        self.calls = []

    def synthesize(self, text, voice):
        self.calls.append((text, voice))
        if text == self.broken:
            raise KeyboardInterrupt
        buzz, rate = soundfile.read(voice.wav, dtype="float32")
        time = np.arange(200 * len(text)) / rate
        pitch = 100 + 2000 * float(np.abs(buzz).mean()) + len(voice.text)
        return np.sin(2 * np.pi * pitch * time).astype("float32"), rate


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eight speakers of ten clips each."""
    return build_libritts(tmp_path_factory.mktemp("corpus"), 8, 2, 5)


@pytest.fixture
def prepare(corpus):
    def run(folder, libritts_folder=corpus, **changes):
        options = {"backend": Cloner(), "seed": 7, **SIZES, **changes}
        script.prepare_libritts_grid(libritts_folder, folder, **options)
        return read_csv(folder / "manifest.csv")

    return run


def said(texts, speaker="61"):
    """Utterances of a speaker."""
    return [
        script.Utterance(
            f"{speaker}_7_{i:06}_000000",
            speaker,
            Path(f"{i}.wav"),
            text,
            script.normalise(text),
        )
        for i, text in enumerate(texts)
    ]


def plan(folder, sizes=None, **options):
    """The rows of a grid without its audio."""
    cells = script.plan_cells(
        script.read_utterances(folder),
        script.read_genders(folder),
        sizes or {"train": (4, 12), "valid": (2, 7)},
        **options,
    )
    return [row for row, _ in cells]


def test_manifest(prepare, corpus, tmp_path):
    backend = Cloner()
    rows = prepare(tmp_path, backend=backend)
    columns = (
        "ID wav duration speaker gender content text reference split "
        "speaking_rate clipping silence"
    )
    assert list(rows[0]) == columns.split()
    assert len(rows) == len({row["ID"] for row in rows}) == CELLS
    clips = {path.stem: path for path in corpus.rglob("*.wav")}
    check_grid(rows, ("speaker", "content", "text"), SPLITS)
    for row in rows:
        info = soundfile.info(tmp_path / row["wav"])
        assert info.samplerate == 16000 and info.channels == 1
        assert float(row["duration"]) == pytest.approx(info.duration)
        # The cell says the sentence, cloned from a clip of its speaker.
        reference = clips[row["reference"]]
        assert reference.parent.parent.name == row["speaker"]
        source = clips[row["content"]].with_suffix(".normalized.txt")
        assert source.read_text() == row["text"]
        reader = (int(row["speaker"]) - 1001) // 37
        assert row["gender"] == ("female", "male")[reader % 2]
    # The backend gets the text, and the reference with what is said there.
    asked = {(text, voice.ID) for text, voice in backend.calls}
    assert asked == {(row["text"], row["reference"]) for row in rows}
    for _, voice in backend.calls:
        path = Path(voice.wav)
        assert path == clips[voice.ID]
        assert voice.text == path.with_suffix(".normalized.txt").read_text()
        assert voice.gender in ("female", "male")


def test_default_sizes_are_the_published_ones(corpus, tmp_path, monkeypatch):
    wav = next(corpus.rglob("*.wav"))
    utterances = []
    for speaker in range(39):
        texts = [sentence(30 * speaker + number) for number in range(30)]
        clips = said(texts, str(100 + speaker))
        utterances += [clip._replace(wav=wav) for clip in clips]
    asked = []

    def render(synthesizer, cells, *options):
        asked[:] = [row for row, _ in cells]
        return asked

    monkeypatch.setattr(script, "read_utterances", lambda folder: utterances)
    monkeypatch.setattr(script, "render_cells", render)
    script.prepare_libritts_grid(corpus, tmp_path, backend=Cloner())
    for split, speakers in (("train", 32), ("valid", 6)):
        part = [row for row in asked if row["split"] == split]
        assert len(part) == speakers * 256
        assert len({row["speaker"] for row in part}) == speakers
        assert len({row["content"] for row in part}) == 256
        used = Counter(row["reference"] for row in part)
        assert len(used) == 30 * speakers  # each clip 8 or 9 times
        assert set(used.values()) <= {7, 8, 9, 10}
    assert len(asked) == 38 * 256


def test_lengths_of_references_and_sentences(tmp_path):
    lengths = {4: "Only these four words.", 16: " ".join(["word"] * 16)}

    def text(speaker, chapter, number):
        return lengths.get(4 * (number + 1), sentence(10 * speaker + number))

    folder = build_libritts(tmp_path, 3, 1, 10, 3.0, text)
    # The lengths are 3.0, 3.1, 3.2 and 3.3 s in turn.
    rows = plan(folder, {"train": (3, 24)}, reference_seconds=(3.1, 3.25))
    used = {row["reference"] for row in rows}
    wavs = [next(folder.rglob(f"{key}.wav")) for key in used]
    assert {round(soundfile.info(wav).duration, 1) for wav in wavs} == {
        3.1,
        3.2,
    }
    assert {len(row["text"].split()) for row in rows} == {9}
    rows = plan(folder, {"train": (3, 26)}, sentence_words=(4, 16))
    assert {len(row["text"].split()) for row in rows} == {4, 9, 16}
    with pytest.raises(InputError, match="there are 24 different sentences"):
        plan(folder, {"train": (3, 25)})


def test_equal_sentences_are_one(tmp_path):
    # Every speaker says the same ten sentences, each writes them otherwise.
    styles = [
        str,
        str.upper,
        lambda text: text.replace(" ", ",  "),
        lambda text: f"\u201c{text[:-1]}!\u201d",
    ]

    def text(speaker, chapter, number):
        return styles[speaker](sentence(5 * chapter + number))

    folder = build_libritts(tmp_path, 4, 2, 5, text=text)
    rows = plan(folder, {"train": (2, 6), "valid": (2, 4)})
    texts = {(row["split"], script.normalise(row["text"])) for row in rows}
    assert Counter(split for split, _ in texts) == {"train": 6, "valid": 4}
    assert len({text for _, text in texts}) == 10
    with pytest.raises(InputError, match="11 were asked for .* there are 10"):
        plan(folder, {"train": (2, 7), "valid": (2, 4)})


def test_no_plan_mixes_splits_or_voices(corpus):
    utterances = script.read_utterances(corpus)
    for seed in range(9):
        splits = {}
        for row, voice in script.plan_cells(
            utterances, {}, {"a": (4, 12), "b": (4, 28)}, seed=seed
        ):
            key = script.normalise(row["text"])
            assert key != script.normalise(voice.text)
            assert voice.ID.split("_")[0] == row["speaker"]
            for part in (row["speaker"], key):
                assert splits.setdefault(part, row["split"]) == row["split"]


def test_a_seed_is_a_draw(corpus):
    first, again = (plan(corpus, seed=3) for _ in range(2))
    assert first == again
    other = plan(corpus, seed=4)
    for column in ("speaker", "content", "reference"):
        assert [r[column] for r in first] != [r[column] for r in other]


def test_a_speakers_references_do_not_hang_on_the_others(corpus):
    few = plan(corpus, {"train": (2, 12)})
    many = plan(corpus, {"train": (6, 12)})
    cells = {row["ID"]: row["reference"] for row in many}
    assert len(few) == 24
    assert all(cells[row["ID"]] == row["reference"] for row in few)


def test_every_clip_before_any_comes_again():
    clips = said("abcdefg")
    drawn = script.draw_references(clips, ["z"] * 24)
    rounds = [drawn[start : start + 7] for start in range(0, 24, 7)]
    assert [len(set(one)) for one in rounds] == [7, 7, 7, 3]
    assert len({tuple(one) for one in rounds}) == 4  # always another order
    assert drawn != script.draw_references(clips, ["z"] * 24, seed=1)
    # Another speaker has an order of its own.
    other = script.draw_references(said("abcdefg", "62"), ["z"] * 24)
    assert [clip.key for clip in drawn] != [clip.key for clip in other]


def test_no_clip_says_its_own_sentence():
    for seed in range(20):
        # The sentences are the clips' own, in the order of a bad draw, and
        # the last of each round would often be left with itself.
        clips = said("abcde")
        keys = [clip.key for clip in script.draw_references(clips, "zzzzz")]
        keys = keys * 4
        drawn = script.draw_references(clips, keys, seed=seed)
        assert all(c.key != key for c, key in zip(drawn, keys, strict=True))
        counts = Counter(clip.ID for clip in drawn)
        assert len(drawn) == 20 and set(counts.values()) <= {3, 4, 5}


def test_a_clip_that_is_left_over_comes_next():
    # The sentence "a" needs the clip "b" each time, and the other waits.
    drawn = script.draw_references(said("ab"), list("aaaazzzz"))
    assert [clip.key for clip in drawn] == list("bbbbaaaa")


def test_references_per_speaker(corpus):
    rows = plan(corpus, {"train": (4, 12)}, references_per_speaker=2)
    used = Counter((row["speaker"], row["reference"]) for row in rows)
    assert set(used.values()) == {6} and len(used) == 8
    # One that says no sentence of the grid is preferred ...
    clips = said("abcd")
    for seed in range(9):
        drawn = script.draw_references(clips, ["a", "b", "d"], 1, seed)
        assert [clip.key for clip in drawn] == ["c", "c", "c"]
    # ... and where there is none, one clip cannot do.
    with pytest.raises(InputError, match="All 1 references of .* 61 say"):
        script.draw_references(clips, list("abcd"), 1)


def test_an_interruption_is_continued(prepare, tmp_path):
    text = prepare(tmp_path / "whole")[30]["text"]
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "part", backend=Cloner(broken=text))
    assert not (tmp_path / "part/manifest.csv").exists()
    done = list((tmp_path / "part").rglob("*.wav"))
    assert 0 < len(done) < CELLS
    backend = Cloner()
    prepare(tmp_path / "part", backend=backend)
    assert len(backend.calls) == CELLS - len(done)
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


def test_shards_make_the_whole(prepare, tmp_path, caplog):
    prepare(tmp_path / "whole")
    backend = Cloner()
    for index in range(3):
        with caplog.at_level("INFO"):
            shard = {"shard": [index, 3], "backend": backend}
            # The last call writes the manifest.
            assert bool(prepare(tmp_path / "parts", **shard)) == (index == 2)
    assert f"of {CELLS} cells are left to the other shards" in caplog.text
    assert len(backend.calls) == CELLS  # each cell once
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_shards_at_once(prepare, tmp_path):
    class Slow(Cloner):
        """Meanwhile the other shard is rendered from beginning to end."""

        def synthesize(self, text, voice):
            if not self.calls:
                run(Cloner(), 1)
                assert not (tmp_path / "parts/manifest.csv").exists()
            return super().synthesize(text, voice)

    def run(backend, index):
        prepare(tmp_path / "parts", shard=(index, 2), backend=backend)

    run(Slow(), 0)
    prepare(tmp_path / "whole")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_finished_grid_is_left_alone(prepare, tmp_path):
    prepare(tmp_path)
    before = contents(tmp_path)
    stamp = (tmp_path / "manifest.csv").stat().st_mtime_ns
    backend = Cloner()
    rows = prepare(tmp_path, backend=backend)
    assert not backend.calls and contents(tmp_path) == before
    assert (tmp_path / "manifest.csv").stat().st_mtime_ns == stamp
    # Nothing is looked at with skip_prep.
    prepare(tmp_path, tmp_path / "nowhere", skip_prep=True, seed=8)
    # A lost clip is rendered again; till then there is no manifest.
    lost = rows[5]
    (tmp_path / lost["wav"]).unlink()
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, backend=Cloner(broken=lost["text"]))
    assert not (tmp_path / "manifest.csv").exists()
    prepare(tmp_path, backend=backend)
    assert len(backend.calls) == 1 and contents(tmp_path) == before
    # A clip of other length is measured anew.
    soundfile.write(tmp_path / lost["wav"], np.ones(8000) / 2, 16000)
    assert float(prepare(tmp_path)[5]["duration"]) == 0.5


def test_other_settings_need_another_folder(prepare, tmp_path):
    prepare(tmp_path)
    before = contents(tmp_path)
    settings = json.loads(before["settings.json"])
    assert settings["backend"] == "cloner" and "plan" in settings
    other = Cloner()
    other.settings = {"backend": "cloner", "version": 2}
    for change, named in (
        ({"n_train_speakers": 3}, r"train cells \(\[4, 12\], now \[3, 12\]\)"),
        ({"seed": 8}, r"seed \(7, now 8\)"),
        ({"sample_rate": 8000}, r"sample_rate \(16000, now 8000\)"),
        ({"references_per_speaker": 3}, "another references_per_speaker"),
        ({"backend": other}, r"version \(1, now 2\)"),
    ):
        with pytest.raises(InputError, match=named):
            prepare(tmp_path, **change)
    assert contents(tmp_path) == before


def test_another_corpus_needs_another_folder(prepare, corpus, tmp_path):
    rows = prepare(tmp_path / "grid")
    copy = tmp_path / "LibriTTS_R/test-clean"
    shutil.copytree(corpus, copy)
    prepare(tmp_path / "grid", copy)  # the same one elsewhere
    for path in copy.rglob(f"{rows[0]['speaker']}_*.wav"):
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples / 2, rate)
    with pytest.raises(InputError, match="another first reference"):
        prepare(tmp_path / "grid", copy)
    text = next(
        path for path in copy.rglob(f"{rows[0]['content']}.normalized.txt")
    )
    text.write_text("The sailor borrowed another old lantern.")
    with pytest.raises(InputError, match="another plan"):
        prepare(tmp_path / "grid", copy)


def test_foreign_files_are_not_touched(prepare, tmp_path):
    (tmp_path / "wav").mkdir()
    with pytest.raises(InputError, match="wav that was not made here"):
        prepare(tmp_path)
    (tmp_path / "wav").rmdir()
    (tmp_path / "manifest.csv").write_text("ID,wav\nx,y.wav\n")
    with pytest.raises(InputError, match="something else"):
        prepare(tmp_path)
    assert "y.wav" in (tmp_path / "manifest.csv").read_text()
    assert not (tmp_path / "wav").exists()  # found before rendering
    lists = tmp_path / "lists/grid.csv"
    prepare(tmp_path, manifest=lists)
    assert (tmp_path / read_csv(lists)[0]["wav"]).is_file()


def test_limits_leave_holes(prepare, tmp_path):
    every = prepare(tmp_path)
    shortest, *_, longest = sorted({float(row["duration"]) for row in every})
    limits = {"duration": [shortest + 0.001, longest - 0.001]}
    backend = Cloner()
    kept = prepare(tmp_path, limits=limits, backend=backend)
    # The manifest is written anew, the audio is not.
    assert not backend.calls and 0 < len(kept) < len(every)
    assert kept == [
        row for row in every if shortest < float(row["duration"]) < longest
    ]
    assert read_csv(tmp_path / "clips.csv") == every
    assert prepare(tmp_path) == every
    with pytest.raises(InputError, match="None of the 48 cells of train"):
        prepare(tmp_path, limits={"duration": [99, None]})
    assert read_csv(tmp_path / "manifest.csv") == every


def test_measures_of_given_models(prepare, tmp_path):
    plain = prepare(tmp_path)
    heard = []

    def transcribe(samples, rate):
        heard.append(rate)
        return "nothing of it"

    def embed(samples, rate):
        # References are at 24 kHz, cells at 16 kHz.
        return np.array([1.0, 0.0 if rate == 24000 else 1.0])

    backend = Cloner()
    prepare(tmp_path, backend=backend, transcribe=transcribe)
    assert not backend.calls and heard == [16000] * CELLS
    models = {"transcribe": transcribe, "embed": embed}
    rows = prepare(tmp_path, **models)
    for row, before in zip(rows, plain, strict=True):
        assert float(row["word_error_rate"]) == 1
        assert float(row["speaker_similarity"]) == pytest.approx(0.5**0.5)
        assert before.items() <= row.items()
    # Measured once, and there for limits without the models, too.
    prepare(tmp_path, **models)
    assert len(heard) == 2 * CELLS
    with pytest.raises(InputError, match="None of the 48 cells"):
        prepare(tmp_path, limits={"word_error_rate": [None, 0.5]})
    assert read_csv(tmp_path / "manifest.csv") == rows


@pytest.mark.parametrize("name", ["speakers.tsv", "SPEAKERS.txt", None])
def test_genders_from_either_table(tmp_path, name):
    folder = build_libritts(tmp_path, 2, 1, 1)
    for table in {"speakers.tsv", "SPEAKERS.txt"} - {name}:
        (folder.parent / table).unlink()
    genders = {"1001": "female", "1038": "male"} if name else {}
    assert script.read_genders(folder) == genders
    if name:  # beside the speakers, too
        shutil.move(folder.parent / name, folder / name)
        assert script.read_genders(folder) == genders


def test_without_tables_genders_are_empty(corpus, tmp_path):
    copy = tmp_path / "alone/test-clean"
    shutil.copytree(corpus, copy)
    rows = plan(copy)
    assert {row["gender"] for row in rows} == {""}
    for row in plan(corpus):
        row["gender"] = ""
        assert row in rows  # the draw does not hang on the tables


def test_the_archives_folder_will_do(tmp_path):
    folder = build_libritts(tmp_path, 2, 1, 1)
    assert script.find_subset(folder) == folder
    assert script.find_subset(folder.parent) == folder
    build_libritts(tmp_path, 2, 1, 1, subset="dev-clean")
    with pytest.raises(InputError, match="subsets dev-clean, test-clean: "):
        script.find_subset(folder.parent)


def test_folders_that_are_not_libritts(tmp_path):
    with pytest.raises(InputError, match="nowhere is not .*/test-clean"):
        script.find_subset(tmp_path / "nowhere")
    # LibriSpeech has other names, and FLAC.
    chapter = tmp_path / "test-clean/61/70968"
    chapter.mkdir(parents=True)
    (chapter / "61-70968-0000.flac").write_bytes(b"")
    (chapter / "61-70968-0000.wav").write_bytes(b"")
    for folder in (tmp_path, chapter.parent.parent, chapter):
        with pytest.raises(InputError, match="_<sentence>.wav; give one"):
            script.find_subset(folder)


def test_clips_that_are_not_whole(tmp_path, caplog):
    folder = build_libritts(tmp_path, 2, 1, 3)
    texts = sorted(folder.rglob("*.normalized.txt"))
    texts[0].unlink()
    with caplog.at_level("WARNING"):
        assert len(script.read_utterances(folder)) == 5
    assert "1 clips have no .normalized.txt" in caplog.text
    texts[1].write_bytes(b"\xe9clair")
    with pytest.raises(InputError, match="normalized.txt is not UTF-8"):
        script.read_utterances(folder)
    texts[1].write_text("Coffee.")
    utterances = script.read_utterances(folder)
    utterances[0].wav.write_bytes(b"RIFF")
    with pytest.raises(InputError, match="is not readable audio"):
        script.find_references(utterances)
    for path in texts[1:]:
        path.unlink()
    with pytest.raises(InputError, match="none of the 6 clips has its text"):
        script.read_utterances(folder)


def test_speakers_need_references(tmp_path):
    def text(speaker, chapter, number):
        # Two clips of the last speaker are without words.
        return "..." if speaker == 2 and number < 2 else sentence(number)

    folder = build_libritts(tmp_path, 3, 1, 6, text=text)
    with pytest.raises(InputError) as error:
        plan(folder, {"train": (2, 2), "valid": (1, 1)})
    assert "3 were asked for (2 for train, 1 for valid)" in str(error)
    assert "there are 2 speakers with 5 or more" in str(error)
    assert "of 3 speakers" in str(error)
    speakers = {r["speaker"] for r in plan(folder, {"train": (2, 2)})}
    assert speakers == {"1001", "1038"}


@pytest.mark.parametrize(
    "change, named",
    [
        ({"n_valid_sentences": 0}, "n_valid_speakers is 2 and"),
        ({"n_train_speakers": -1}, "n_train_speakers is -1"),
        (dict.fromkeys(SIZES, 0), "No split has speakers"),
        ({"reference_seconds": [10, 3]}, "reference_seconds is"),
        ({"sentence_words": [0, 3]}, "sentence_words is"),
        ({"references_per_speaker": 0}, "references_per_speaker is 0"),
        ({"limits": {"silence": 0.5}}, "The limit of silence is 0.5"),
        ({"n_train_speakers": 7}, "10 were asked for .7 for train, 2 for va"),
    ],
)
def test_impossible_grids(prepare, tmp_path, change, named):
    with pytest.raises(InputError, match=named):
        prepare(tmp_path, **change)
    assert contents(tmp_path) == {}


def test_examples_in_the_docstrings():
    results = doctest.testmod(script)
    assert results.attempted and not results.failed
