"""Audio of a dataset: checked, read, sent through a channel."""

import os

import numpy as np
import pytest
import soundfile
import torch

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain_ext.dataio.audio import AudioDataset, check_audio, read_audio
from speechbrain_ext.utils.errors import InputError


@pytest.fixture
def audio(tmp_path):
    """Writes a file, returns a dataset of one utterance."""

    def make(samples, rate=16000, **changes):
        soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
        row = {"wav": str(tmp_path / "a.wav"), **changes}
        return DynamicItemDataset({"u1": row})

    return make


@pytest.mark.parametrize(
    "segment, seconds", [({}, 0.5), ({"start": 100, "stop": 1700}, 0.1)]
)
def test_check_audio_fills_in_durations(audio, segment, seconds):
    dataset = audio(np.zeros(8000), **segment)
    check_audio(dataset)
    assert dataset.data["u1"]["duration"] == seconds


def test_check_audio_refuses(audio, tmp_path):
    dataset = audio(np.zeros(100))
    (tmp_path / "a.wav").unlink()
    with pytest.raises(InputError, match="'u1': no file"):
        check_audio(dataset)
    (tmp_path / "a.wav").write_text("no audio at all")
    with pytest.raises(InputError, match="is not readable audio"):
        check_audio(dataset)
    with pytest.raises(InputError, match="is empty"):
        check_audio(audio(np.zeros(0)))
    with pytest.raises(InputError, match="8000 Hz, expected 16000"):
        check_audio(audio(np.zeros(100), rate=8000), resample=False)
    with pytest.raises(InputError, match="samples 0 to 101"):
        check_audio(audio(np.zeros(100), stop=101))


@pytest.mark.skipif(os.name == "nt", reason="names are in Unicode")
def test_names_that_are_not_in_unicode_or_too_long(tmp_path):
    wav = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xff.wav"))
    open(wav, "w").close()
    for path, message in ((wav, "not readable"), ("a" * 999, "no file")):
        with pytest.raises(InputError, match=message):
            check_audio(DynamicItemDataset({"u1": {"wav": path}}))


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
    segment = read_audio("u1", wav, 100, 300, sample_rate=8000)
    assert np.allclose(segment, tone[100:300] / 2, atol=1e-6)


def test_pipeline_reads_and_applies_the_channel(audio):
    samples, seen = np.full(100, 0.5), []

    def channel(signal, key):
        seen.append(key)
        return 2 * signal

    item = AudioDataset(audio(samples), channel=channel)[0]
    assert item["id"] == "u1" and seen == ["u1"]
    assert torch.allclose(item["sig"], torch.ones(100))
    samples[7] = np.nan
    with pytest.raises(InputError, match="'u1'.*NaN"):
        AudioDataset(audio(samples))[0]
