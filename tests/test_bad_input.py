"""Manifests and audio that are not what they seem."""

import contextlib
import logging
import time
import unicodedata

import numpy as np
import pytest
import soundfile

from speechbrain_ext.dataio.audio import check_audio, read_audio
from speechbrain_ext.dataio.manifest import load_manifest
from speechbrain_ext.dataio.splits import split_manifest
from speechbrain_ext.synthesis import espeak
from speechbrain_ext.synthesis.base import Voice
from speechbrain_ext.synthesis.grid import render_cells
from speechbrain_ext.utils.errors import InputError


def manifest(folder, *rows, heading="ID,wav,speaker"):
    path = folder / "manifest.csv"
    path.write_text("\n".join([heading, *rows]), encoding="utf-8")
    return path


@pytest.fixture
def wav(tmp_path):
    samples = np.random.default_rng(0).normal(size=16000) / 9
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    return tmp_path / "a.wav"


@pytest.mark.parametrize(
    "start, stop, message",
    [
        ("0.5", "2.25", "start is 0.5: .* samples, not seconds"),
        ("0", "nan", "stop is nan: .* whole number"),
        ("0", "inf", "stop is inf"),
        ("-1", "900", "start is -1"),
        ("0", "1", "a segment of 1 samples: .* not seconds"),
        ("0", "2.0", "a segment of 2 samples"),
        ("15999", "", "a segment of 1 samples"),
        ("0", "16001", "samples 0 to 16001 are not in"),
        ("900", "800", "samples 900 to 800"),
    ],
)
def test_segments_are_in_samples(wav, start, stop, message):
    path = manifest(
        wav.parent, f"u,a.wav,ann,{start},{stop}",
        heading="ID,wav,speaker,start,stop",
    )  # fmt: skip
    with pytest.raises(InputError, match=message):
        check_audio(load_manifest(path))


def test_whole_numbers_may_have_a_point(wav):
    rows = ["u,a.wav,ann,800.0,8000.0"]
    path = manifest(wav.parent, *rows, heading="ID,wav,speaker,start,stop")
    row = load_manifest(path).data["u"]
    assert (row["start"], row["stop"]) == (800, 8000)


def test_blanks_make_no_second_speaker(tmp_path, caplog):
    rows = ["u ,a.wav,ann,train", "v,b.wav,ann ,train ", "w,c.wav, bob,train"]
    path = manifest(tmp_path, *rows, heading="ID,wav,speaker,split")
    data = load_manifest(path, factors=["speaker"]).data
    assert list(data) == ["u", "v", "w"]
    assert [row["speaker"] for row in data.values()] == ["ann", "ann", "bob"]
    assert {row["split"] for row in data.values()} == {"train"}
    assert caplog.text.count("blanks at the ends of 3 values") == 1
    with pytest.raises(InputError, match="'u' occurs twice"):
        load_manifest(manifest(tmp_path, "u,a.wav,a", "u ,b.wav,a"))


@pytest.mark.parametrize(
    "one, other",
    [("Ann", "ann"), ("José", unicodedata.normalize("NFD", "José"))],
)
def test_values_that_look_alike_are_warned_of(tmp_path, one, other, caplog):
    path = manifest(tmp_path, f"u,a.wav,{one}", f"v,b.wav,{other}")
    data = load_manifest(path, factors=["speaker"]).data
    assert len({row["speaker"] for row in data.values()}) == 2
    assert caplog.text.count("1 values of 'speaker' are written in") == 1


def test_held_out_beside_a_column_split(tmp_path):
    rows = [f"u{n},a.wav,s{n},{n % 3}" for n in range(9)]
    path = manifest(tmp_path, *rows, heading="ID,wav,speaker,split")
    names = {"train": "0", "valid": "1", "test": "2"}
    dataset = load_manifest(path, factors=["speaker"])
    split_manifest(dataset, "speaker", split_names=names)
    with pytest.raises(InputError, match="held_out .*column 'split' decides"):
        split_manifest(dataset, "speaker", "content", split_names=names)


def test_left_out_is_counted_once(tmp_path, caplog):
    """Where validation and test are the same utterances."""
    rows = [f"u{n},a.wav,s{n},{'train' if n < 6 else 'dev'}" for n in range(9)]
    path = manifest(tmp_path, *rows, heading="ID,wav,speaker,split")
    dataset = load_manifest(path, factors=["speaker"])
    split_manifest(dataset, "speaker", split_names={"test": "dev"})
    assert "left out" not in caplog.text


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(8000),
        np.full(8000, 0.3),
        np.stack([np.sin(np.arange(8000)), -np.sin(np.arange(8000))], 1),
    ],
)
def test_silence_is_warned_of(tmp_path, samples, caplog):
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    read_audio("utt1", str(tmp_path / "a.wav"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "'utt1'" in record.message and "silent" in record.message


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_cut_off_files_are_warned_of(wav, subtype, caplog):
    samples = soundfile.read(wav)[0]
    soundfile.write(wav, samples, 16000, subtype=subtype)
    whole = wav.read_bytes()
    (wav.parent / "b.wav").write_bytes(whole)
    path = manifest(wav.parent, "u,a.wav,ann", "v,a.wav,ann", "w,b.wav,ann")
    size = whole.index(b"data") + 4
    # Whole, and as programs that write to a pipe say it.
    for promised in (None, 0xFFFFFFFF, 0x7FFFF000):
        if promised:
            said = promised.to_bytes(4, "little")
            wav.write_bytes(whole[:size] + said + whole[size + 4 :])
        check_audio(load_manifest(path))
    assert not caplog.text
    wav.write_bytes(whole[:20000])
    check_audio(load_manifest(path))
    (record,) = caplog.records
    assert "1 of 2 audio files are cut off" in record.message
    assert f"a.wav, which has {soundfile.info(wav).frames}" in record.message
    assert "samples of 16000" in record.message


@pytest.mark.parametrize("gain, fits", [(20, True), (32768, False)])
def test_samples_that_were_never_scaled(wav, gain, fits):
    samples = soundfile.read(wav)[0]
    soundfile.write(wav, gain * samples, 16000, subtype="FLOAT")
    message = "'u': .*a.wav has samples up to .* expected -1 to 1"
    refused = pytest.raises(InputError, match=message)
    with contextlib.nullcontext() if fits else refused:
        read_audio("u", str(wav))


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match="'u': there is no file .*no.wav"):
        read_audio("u", str(tmp_path / "no.wav"))


@pytest.mark.parametrize("rate", [15999, 16001, 44099, 44100, 22050, 8000])
def test_any_rate_is_resampled_quickly(tmp_path, rate):
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate) / 2
    soundfile.write(tmp_path / "a.wav", tone, rate)
    began = time.process_time()
    found = read_audio("u", str(tmp_path / "a.wav")).numpy()
    assert time.process_time() - began < 10  # it was a minute, and 4 GB
    assert abs(len(found) - 16000) <= 1
    wanted = np.sin(2 * np.pi * 440 * np.arange(len(found)) / 16000) / 2
    assert np.abs(found - wanted)[500:-500].max() < 0.01


@pytest.mark.parametrize("rate", [1, 999, 768001, 2**31 - 1])
def test_rates_of_damaged_headers_are_refused(wav, rate):
    soundfile.write(wav, np.random.default_rng(0).normal(size=999) / 9, rate)
    message = f"'u': .* has {rate} Hz, expected 1000 to 768000"
    with pytest.raises(InputError, match=message):
        read_audio("u", str(wav))
    with pytest.raises(InputError, match=message):
        check_audio(load_manifest(manifest(wav.parent, "u,a.wav,ann")))


@pytest.mark.parametrize("left", [20000, 32043, 44, 10, 0])
def test_a_clip_that_was_cut_off_is_rendered_again(tmp_path, left):
    class Noise:
        settings = {"backend": "noise"}

        def synthesize(self, text, voice):
            return np.random.default_rng(0).normal(size=16000), 16000

    cells = [({"ID": "u", "wav": "a.wav", "text": "Shh."}, Voice("v", "", ""))]
    options = {"num_workers": 1, "progress": False}
    render_cells(Noise(), cells, tmp_path, **options)
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[:left])
    (row,) = render_cells(Noise(), cells, tmp_path, **options)
    assert row["duration"] == 1 and (tmp_path / "a.wav").read_bytes() == whole


def test_a_long_path_of_espeak_is_said(monkeypatch):
    loader = pytest.importorskip("espeakng_loader")
    monkeypatch.setattr(loader, "get_data_path", lambda: "/" + "a" * 159)
    with pytest.raises(InputError, match="at most 159 bytes"):
        espeak.EspeakSynthesizer()
