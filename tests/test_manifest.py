"""Manifests: reading, checks, splits."""

import json

import numpy as np
import pytest
import soundfile
import torch
from conftest import write_manifest

from speechbrain_ext.dataio.manifest import (
    add_audio_pipeline,
    check_audio,
    load_manifest,
    read_audio,
    split_manifest,
    subset,
)
from speechbrain_ext.utils.errors import InputError

FACTORS = ["speaker", "content"]


def row(key="u1", **changes):
    base = {"ID": key, "wav": "a.wav", "speaker": "s", "content": "c"}
    return base | changes


def test_csv_and_json_agree(tmp_path):
    first, wav = row("u1", start="", stop=""), "{data_root}/b.wav"
    rows = [first, row("u2", wav=wav, start="10", stop="20")]
    from_csv = load_manifest(write_manifest(tmp_path / "m.csv", rows), "/root")
    as_json = {r["ID"]: {k: r[k] for k in r if k != "ID"} for r in rows}
    (tmp_path / "m.json").write_text(json.dumps(as_json))
    from_json = load_manifest(tmp_path / "m.json", "/root")
    assert from_csv.data == from_json.data
    assert from_csv.data["u1"]["wav"] == "/root/a.wav"
    assert from_csv.data["u2"]["wav"] == "/root/b.wav"
    assert from_csv.data["u2"]["start"] == 10


def test_paths_start_from_the_manifest_without_data_root(tmp_path):
    path = write_manifest(tmp_path / "m.csv", [row()])
    assert load_manifest(path).data["u1"]["wav"] == str(tmp_path / "a.wav")
    dollar = write_manifest(tmp_path / "d.csv", [row(wav="$data_root/x.wav")])
    assert load_manifest(dollar, "/r").data["u1"]["wav"] == "/r/x.wav"


def test_other_headings(tmp_path):
    rows = [{"utt": "u1", "path": "a.wav", "spk": "x", "text": "hello"}]
    path = write_manifest(tmp_path / "m.csv", rows)
    columns = {"ID": "utt", "wav": "path", "speaker": "spk", "content": "text"}
    loaded = load_manifest(path, factors=FACTORS, columns=columns)
    assert loaded.data["u1"]["speaker"] == "x"
    assert loaded.data["u1"]["content"] == "hello"


def test_a_mapped_name_hides_a_column_of_that_name(tmp_path):
    rows = [row(spk="right", speaker="wrong")]
    path = write_manifest(tmp_path / "m.csv", rows)
    loaded = load_manifest(path, factors=FACTORS, columns={"speaker": "spk"})
    assert loaded.data["u1"]["speaker"] == "right"


@pytest.mark.parametrize(
    "rows, message",
    [
        ([row(), row()], "line 3: ID 'u1' occurs twice"),
        ([{"ID": "u1", "wav": "a.wav", "speaker": "s"}], "no column 'content'"),
        ([row(content="")], "line 2: empty 'content'"),
        ([row(duration="long")], "line 2: duration 'long' is no number"),
    ],
)
def test_bad_rows(tmp_path, rows, message):
    path = write_manifest(tmp_path / "m.csv", rows)
    with pytest.raises(InputError, match=message):
        load_manifest(path, factors=FACTORS)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="No manifest"):
        load_manifest(tmp_path / "absent.csv")
    (tmp_path / "empty.csv").write_text("ID,wav\n")
    with pytest.raises(InputError, match="no rows"):
        load_manifest(tmp_path / "empty.csv")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_manifest(tmp_path / "broken.json")
    repeated = '{"u1": {"wav": "a"}, "u1": {"wav": "b"}}'
    (tmp_path / "twice.json").write_text(repeated)
    with pytest.raises(InputError, match="occurs twice"):
        load_manifest(tmp_path / "twice.json")
    (tmp_path / "wide.csv").write_text("ID,wav\nu1,a.wav,surplus\n")
    with pytest.raises(InputError, match="line 2: too many fields"):
        load_manifest(tmp_path / "wide.csv")


@pytest.fixture
def audio(tmp_path):
    """Writes a file, returns a dataset of one utterance."""

    def make(samples, rate=16000, **changes):
        soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
        path = write_manifest(tmp_path / "m.csv", [row(**changes)])
        return load_manifest(path)

    return make


def test_check_audio_fills_in_durations(audio):
    dataset = audio(np.zeros(8000))
    check_audio(dataset)
    assert dataset.data["u1"]["duration"] == 0.5
    dataset = audio(np.zeros(8000), start=100, stop=1700)
    check_audio(dataset)
    assert dataset.data["u1"]["duration"] == 0.1


def test_check_audio_refuses(audio, tmp_path):
    dataset = audio(np.zeros(100))
    (tmp_path / "a.wav").unlink()
    with pytest.raises(InputError, match="'u1': no file"):
        check_audio(dataset)
    (tmp_path / "a.wav").write_text("no audio at all")
    with pytest.raises(InputError, match="no readable audio"):
        check_audio(dataset)
    with pytest.raises(InputError, match="is empty"):
        check_audio(audio(np.zeros(0)))
    with pytest.raises(InputError, match="8000 Hz, expected 16000"):
        check_audio(audio(np.zeros(100), rate=8000), resample=False)
    with pytest.raises(InputError, match="samples 0 to 101"):
        check_audio(audio(np.zeros(100), stop=101))


def test_read_audio(audio):
    time = np.arange(8000) / 8000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    dataset = audio(np.stack([tone, 0 * tone], axis=1), rate=8000)
    wav = dataset.data["u1"]["wav"]
    signal = read_audio("u1", wav)
    assert signal.shape == (16000,)  # resampled, channels averaged
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    middle = slice(1000, -1000)
    assert np.allclose(signal[middle], expected[middle], atol=2e-3)
    assert read_audio("u1", wav, 100, 300, sample_rate=8000).shape == (200,)


def test_nan_is_refused(audio):
    samples = np.zeros(100, dtype=np.float32)
    samples[7] = np.nan
    dataset = add_audio_pipeline(audio(samples))
    with pytest.raises(InputError, match="'u1'.*NaN"):
        dataset[0]


def test_pipeline_applies_the_channel(audio):
    dataset = audio(np.full(100, 0.5))
    seen = []

    def channel(signal, key):
        seen.append(key)
        return 2 * signal

    item = add_audio_pipeline(dataset, channel=channel)[0]
    assert item["id"] == "u1" and seen == ["u1"]
    assert torch.allclose(item["sig"], torch.ones(100))


def grid_dataset(n_speakers=10, n_contents=10, **extra):
    rows = {
        f"{s}_{c}": {"speaker": f"s{s}", "content": f"c{c}", **extra}
        for s in range(n_speakers)
        for c in range(n_contents)
    }
    from speechbrain.dataio.dataset import DynamicItemDataset

    return DynamicItemDataset(rows)


def test_split_is_disjoint_seeded_and_complete():
    dataset = grid_dataset()
    splits = split_manifest(dataset, by="speaker", seed=1)
    assert sum(map(len, splits.values())) == 100
    speakers = {
        split: {dataset.data[k]["speaker"] for k in ids}
        for split, ids in splits.items()
    }
    assert [len(s) for s in speakers.values()] == [6, 2, 2]
    assert len(set.union(*speakers.values())) == 10
    assert splits == split_manifest(dataset, by="speaker", seed=1)
    assert splits != split_manifest(dataset, by="speaker", seed=2)


def test_held_out_contents_are_disjoint_too():
    dataset = grid_dataset()
    splits = split_manifest(dataset, by="speaker", held_out="content")
    assert [len(ids) for ids in splits.values()] == [36, 4, 4]
    for factor in FACTORS:
        values = [
            {dataset.data[k][factor] for k in ids} for ids in splits.values()
        ]
        assert sum(map(len, values)) == len(set.union(*values))


def test_split_column_decides():
    dataset = grid_dataset(3, 2)
    names = ["training", "dev", "unseen"]
    for i, key in enumerate(dataset.data):
        dataset.data[key]["split"] = names[i % 3]
    mapped = {"test": "unseen"}
    splits = split_manifest(dataset, by="speaker", split_names=mapped)
    assert [len(ids) for ids in splits.values()] == [2, 2, 2]
    with pytest.raises(InputError, match="'test'.*dev, training, unseen"):
        split_manifest(dataset, by="speaker")
    dataset.data["0_0"]["split"] = ""
    with pytest.raises(InputError, match="empty in 1 rows"):
        split_manifest(dataset, by="speaker")


def test_too_few_speakers():
    with pytest.raises(InputError, match="too few values of 'speaker'"):
        split_manifest(grid_dataset(2, 3), by="speaker")


def test_subset_keeps_the_order():
    dataset = subset(grid_dataset(), ["3_1", "0_2"])
    assert list(dataset.data) == ["3_1", "0_2"]
