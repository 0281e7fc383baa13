"""Recordings without a manifest: folders of speakers, Kaldi's, lists."""

import re

import pytest
import soundfile
from conftest import ROOT, call_script, voiced
from helpers import build_export

from speechbrain_ext.dataio.audio import check_audio
from speechbrain_ext.dataio.manifest import (
    find_recordings,
    load_manifest,
    recordings_name,
)
from speechbrain_ext.evaluation.results import read_results, select
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.utils.errors import InputError

RECIPE = ROOT / "recipes/InterventionalTTS/post-training"
KALDI = {
    "wav.scp": "u1 a.wav\nu2\tb c.wav\n",
    "utt2spk": "u1 ann\nu2 bob\n",
    "text": "u1 how are you\nu2  fine\n",
    "segments": "s1 u1 0.25 0.5\ns2 u1 0.5 -1\ns3 u2 0 1.01\n",
}


def write(path, speaker=0, content=0, seconds=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, voiced(speaker, content, seconds=seconds), 16000)


def kaldi(folder, **changes):
    """Wav.scp, utt2spk and text; more, or other text of these, in changes."""
    write(folder / "a.wav")
    write(folder / "b c.wav", 1)
    for name in ("wav.scp", "utt2spk", "text", *changes):
        text = changes.get(name, KALDI[name])
        if text is not None:
            (folder / name).write_text(text)
    return folder


@pytest.fixture
def speakers(tmp_path):
    """Two speakers; of one the files lie deeper, as in VoxCeleb."""
    for name in ("ann/1/a.wav", "ann/2/a.wav", "bob/b.flac", ".cache/c.txt"):
        write(tmp_path / "corpus" / name.replace("txt", "wav"))
    return tmp_path / "corpus"


def test_folder_of_speakers(speakers, caplog):
    (speakers / "ann/1/notes.txt").touch()
    (speakers / "ann/1/.hidden.wav").touch()
    for source in (speakers, speakers / "manifest.csv"):
        data = load_manifest(source, factors=["speaker"]).data
        assert {key: row["speaker"] for key, row in data.items()} == {
            "ann/1/a.wav": "ann",
            "ann/2/a.wav": "ann",
            "bob/b.flac": "bob",
        }
    assert "its 2 sub-folders are taken for speakers, e.g. ann" in caplog.text
    assert data["bob/b.flac"]["wav"] == str(speakers / "bob/b.flac")
    assert find_recordings(speakers).data == data
    # A manifest tells more than folders.
    (speakers / "manifest.csv").write_text("ID,wav\nu1,bob/b.flac\n")
    assert list(find_recordings(speakers).data) == ["u1"]


def test_what_is_no_folder_of_speakers(speakers, tmp_path):
    def refused(message):
        with pytest.raises(InputError, match=message) as raised:
            load_manifest(speakers, factors=["speaker"])
        assert "\n" not in str(raised.value)

    with pytest.raises(InputError, match="no column 'content'"):
        load_manifest(speakers, factors=["speaker", "content"])
    (speakers / "doc").mkdir()
    refused("corpus: sub-folder 'doc' has no audio .*: move it away")
    write(speakers / "loose.wav")
    refused("corpus: 1 audio files, e.g. loose.wav, are not in the sub-folder")
    # Without labels neither does harm.
    data = find_recordings(speakers).data
    assert len(data) == 4 and not any("speaker" in row for row in data.values())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="No recordings in .*empty: expected"):
        find_recordings(tmp_path / "empty")


def test_kaldi(tmp_path):
    folder = kaldi(tmp_path / "data")
    data = load_manifest(folder, factors=["speaker", "content"]).data
    assert data == {
        "u1": {
            "wav": str(folder / "a.wav"),
            "speaker": "ann",
            "content": "how are you",
        },
        "u2": {
            "wav": str(folder / "b c.wav"),
            "speaker": "bob",
            "content": "fine",
        },
    }
    # Relative paths start where those of a manifest do.
    elsewhere = load_manifest(folder, tmp_path / "x").data["u1"]["wav"]
    assert elsewhere == str(tmp_path / "x/a.wav")
    (folder / "utt2spk").unlink()
    (folder / "text").unlink()
    assert list(find_recordings(folder).data["u1"]) == ["wav"]


def test_kaldi_segments(tmp_path):
    """An end of -1 is that of the recording, and so is one just beyond it."""
    speakers = {"utt2spk": "s1 ann\ns2 ann\ns3 bob\n", "text": None}
    folder = kaldi(tmp_path, segments=KALDI["segments"], **speakers)
    dataset = load_manifest(folder, factors=["speaker"])
    check_audio(dataset)
    rows = dataset.data.values()
    assert [(row["start"], row["stop"], row["speaker"]) for row in rows] == [
        (4000, 8000, "ann"),
        (8000, 16000, "ann"),
        (0, 16000, "bob"),
    ]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("utt2spk", "u1 ann\n", "line 2: utterance 'u2' has no speaker: .*utt"),
        ("text", "u2 fine\n", "line 1: utterance 'u1' has no content: .*text"),
        ("wav.scp", "u1 a\nu1 b\n", "wav.scp, line 2: 'u1' occurs twice"),
        ("wav.scp", "u1 cat a.flac |\n", "'cat a.flac |' is a command, which"),
        ("wav.scp", "u1\n", "line 1: empty 'wav'"),
        ("wav.scp", "\n", "has no rows"),
        ("utt2spk", "u1\nu2 bob\n", "line 1: empty 'speaker'"),
        ("wav.scp", "u1 a\0\n", "wav.scp cannot be read as text: it has NUL"),
        ("segments", "u1 u1 0\n", "'u1 0' is not a recording, its start and"),
        ("segments", "u1 u1 0 end\n", "'u1 0 end' is not a recording, its"),
        ("segments", "u1 u3 0 1\n", "recording 'u3' is not in wav.scp"),
        ("segments", "u1 u1 0 nan\n", "has times that are not finite"),
    ],
)
def test_bad_kaldi(name, text, message, tmp_path):
    folder = kaldi(tmp_path, **{name: text})
    with pytest.raises(InputError, match=message.replace("|", r"\|")) as raised:
        load_manifest(folder, factors=["speaker"])
    assert "\n" not in str(raised.value)


def test_segments_beyond_a_recording(tmp_path):
    """Half a second or more is not a matter of rounding."""
    folder = kaldi(tmp_path, segments="u1 u1 0 1.6\n")
    with pytest.raises(InputError, match="samples 0 to 25600 are not in"):
        check_audio(load_manifest(folder))
    folder = kaldi(tmp_path, **{"wav.scp": "u1 no.wav\n"}, segments="u1 u1 0 1")
    with pytest.raises(InputError, match="There is no file .*no.wav"):
        load_manifest(folder)


@pytest.mark.parametrize("name", ["files.txt", "files.LST"])
def test_list_of_files(name, tmp_path):
    (tmp_path / name).write_text(f"\ufeffa b.wav\n\n{tmp_path}/c.wav\r\n")
    data = find_recordings(tmp_path / name).data
    assert data == {
        "a b.wav": {"wav": str(tmp_path / "a b.wav")},
        f"{tmp_path}/c.wav": {"wav": str(tmp_path / "c.wav")},
    }
    assert recordings_name(tmp_path / name) == "files"
    with pytest.raises(InputError, match="no column 'speaker' .has ID, wav"):
        load_manifest(tmp_path / name, factors=["speaker"])
    for text, message in (("a\nb\na\n", "line 3: ID 'a' occurs"), (" ", "no")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            find_recordings(tmp_path / name)


@pytest.mark.parametrize("form", ["folder", "kaldi"])
def test_evaluation_without_a_manifest(form, tmp_path, capfd):
    """The command that README.md gives; tasks that need contents are left
    out.
    """
    data = tmp_path / "data"
    for speaker in range(3):
        for content in range(3):
            write(data / f"s{speaker}/{content}.wav", speaker, content, 0.4)
    if form == "kaldi":
        names = {f"u{i}": p for i, p in enumerate(sorted(data.rglob("*.wav")))}
        lines = [f"{key} {path}\n" for key, path in names.items()]
        (data / "wav.scp").write_text("".join(lines))
        lines = [f"{key} {p.parent.name}\n" for key, p in names.items()]
        (data / "utt2spk").write_text("".join(lines))
    export = build_export(tmp_path / "export", load_encoder("log_mel"))
    command = [
        RECIPE / "evaluate.py",
        "hparams/evaluate.yaml",
        f"--export_folder={export}",
        f"--data_folder={data}",
        "--conditions=[recorded]",
        "--resamples=0",
        f"--output_folder={tmp_path}/out",
        f"--cache_folder={tmp_path}/features",
    ]
    with pytest.raises(SystemExit):
        call_script(*command, "--tasks=[content]")
    assert "needs a content factor: give --content_f" in capfd.readouterr().err
    call_script(*command)
    found = read_results(tmp_path / "out")
    assert found["about"]["speakers"] == 3
    left_out = " ".join(found["about"]["left_out"])
    assert left_out.startswith("content is left out: Task 'content' needs a")
    rows = select(found["rows"], measure="eer", subspace="speaker", group="")
    assert [row["n"] for row in rows] == [9 + 27]
    trials = (tmp_path / "out/trials.txt").read_text()
    assert (
        "u0.wav u1.wav" if form == "kaldi" else "s0/0.wav s0/1.wav"
    ) in trials


def snippet(name):
    """The lines of README.md that make a manifest by a library."""
    text = (RECIPE / "README.md").read_text(encoding="utf-8")
    blocks = re.findall("```python\n(.*?)```", text, re.S)
    [code] = [x for x in blocks if f"import {name}" in x or f"from {name}" in x]
    return code


@pytest.mark.parametrize("library", ["lhotse", "datasets", "pandas"])
def test_snippets(library, tmp_path, monkeypatch):
    """Each makes the manifest of the same two files, where it is installed."""
    pytest.importorskip(library)
    write(tmp_path / "a.wav")
    write(tmp_path / "b.wav", 1)
    paths, speakers = [f"{tmp_path}/{x}.wav" for x in "ab"], ["ann", "bob"]
    monkeypatch.chdir(tmp_path)
    code, keys = snippet(library), ["a", "b"]
    if library == "lhotse":
        import lhotse

        cuts = []
        for key, path, speaker in zip(keys, paths, speakers):
            recording = lhotse.Recording.from_file(path, key)
            segment = lhotse.SupervisionSegment(
                key, key, 0, 0.75, speaker=speaker, text="fine"
            )
            cut = recording.to_cut().truncate(offset=0.25)
            cut.supervisions, cut.id = [segment], key
            cuts.append(cut)
        lhotse.CutSet.from_cuts(cuts).to_file("cuts.jsonl.gz")
    elif library == "datasets":
        import datasets

        columns = {"audio": paths, "speaker_id": speakers}
        data = datasets.Dataset.from_dict(columns)
        data.cast_column("audio", datasets.Audio()).to_parquet("data/x.parquet")
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        code, keys = code.replace("PATH_OR_ID", "data"), ["0", "1"]
    else:
        pytest.importorskip("pyarrow")
        import pandas

        table = pandas.DataFrame({"utt": keys, "path": paths, "spk": speakers})
        table.to_parquet("table.parquet")
    exec(code, {})
    dataset = load_manifest("manifest.csv", factors=["speaker"])
    check_audio(dataset)
    rows = dataset.data
    assert list(rows) == keys
    assert [row["speaker"] for row in rows.values()] == speakers
    if library == "lhotse":
        spans = [(row["start"], row["stop"]) for row in rows.values()]
        assert spans == [(4000, 16000)] * 2
