"""Long recordings: the same windows in memory, in files and in caches."""

import math

import numpy as np
import pytest
import soundfile
import torch

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain_ext.augment.channel import RandomChannel
from speechbrain_ext.dataio.audio import check_audio
from speechbrain_ext.dataio.feature_cache import extract_features, in_windows
from speechbrain_ext.dataio.manifest import find_recordings
from speechbrain_ext.lobes import pooled_encoder
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.pooled_encoder import PooledEncoder
from speechbrain_ext.utils.windows import windows

RATE = 1000


class Moments(PooledEncoder):
    """Mean and deviation; notes the lengths that it is given."""

    def __init__(self):
        super().__init__(RATE, parameters={})
        self.n_layers, self.dim, self.seen = 1, 2, []

    def encode(self, wavs, lengths):
        self.seen.append(list(wavs.shape))
        return torch.stack(torch.std_mean(wavs, 1), 1).unsqueeze(1)


def noise(seconds, seed=0, rate=RATE):
    """Noise whose level rises."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * rate)
    wave = rng.normal(0, 0.1, samples) * np.linspace(0.1, 1, samples)
    return wave.astype("float32")


@pytest.mark.parametrize("seconds", [30.001, 31, 39.9, 40, 40.1, 75.5, 7200])
def test_windows_cover_all(seconds):
    cut = windows(round(seconds * RATE), RATE)
    assert cut[0][0] == 0 and cut[-1][1] == round(seconds * RATE)
    for (start, stop), (following, _) in zip(cut, cut[1:]):
        assert stop - start == 20 * RATE and following - start == 10 * RATE
    assert 10 * RATE < cut[-1][1] - cut[-1][0] <= 20 * RATE


def test_an_utterance_is_the_mean_of_its_windows():
    """Weighted with durations, whatever else is in the batch."""
    encoder, long, short = Moments(), noise(45), noise(30, 1)
    wavs = torch.zeros(2, len(long))
    wavs[0], wavs[1, : len(short)] = map(torch.tensor, (long, short))
    got = encoder(wavs, torch.tensor([1, len(short) / len(long)]))
    spans = [(0, 20), (10, 30), (20, 40), (30, 45)]
    parts = [long[a * RATE : b * RATE] for a, b in spans]
    means = np.array([[part.std(ddof=1), part.mean()] for part in parts])
    want = np.average(means, axis=0, weights=[20, 20, 20, 15])
    assert np.allclose(got[0, 0], want, atol=1e-6)
    # 30 s are encoded at once: the very same as alone.
    assert torch.equal(got[1], encoder(torch.tensor(short)[None])[0])
    assert encoder.seen[-1] == [1, 30 * RATE]


@pytest.mark.parametrize("seconds, most", [(16.0, 1), (math.inf, 8)])
def test_a_long_one_is_encoded_in_parts(monkeypatch, seconds, most):
    """Its length does not say how much is encoded at a time: 8 on a GPU."""
    monkeypatch.setattr(pooled_encoder, "CPU_SECONDS", seconds)
    encoder = Moments()
    encoder(torch.from_numpy(noise(600))[None])
    assert max(rows for rows, _ in encoder.seen) == most
    assert {samples for _, samples in encoder.seen} == {20 * RATE}


def test_caches_and_segments(tmp_path):
    """Rows of a manifest, segments among them, as waveforms in memory."""
    wave = noise(50)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    key, row = "whole", {"wav": str(tmp_path / "a.wav")}
    rows = {
        key: row,
        "part": row | {"start": 5 * RATE, "stop": 43 * RATE},
        # A column of the manifest is not ours, whatever it is called.
        "short": row | {"stop": 3 * RATE, "utterance": "yes"},
    }
    dataset = DynamicItemDataset(rows)
    check_audio(dataset, RATE)
    encoder = Moments()
    features = extract_features(dataset, encoder, tmp_path, progress=False)
    assert features.array.shape == (3, 1, 2)
    pieces = {"part": wave[5 * RATE : 43 * RATE], "short": wave[: 3 * RATE]}
    for name, piece in {key: wave, **pieces}.items():
        want = encoder(torch.from_numpy(piece)[None])
        assert torch.allclose(features.select([name]), want, atol=1e-6)
    both = features.select(["short", key])
    assert torch.equal(both[1], features.select([key])[0])
    assert features.select([key], joined=False).shape == (4, 1, 2)


def test_windows_share_a_channel(tmp_path):
    """The windows of an utterance go through the channel of the utterance."""
    soundfile.write(tmp_path / "a.wav", noise(33, rate=16000), 16000)
    dataset = find_recordings([tmp_path / "a.wav"])
    check_audio(dataset)
    [key] = dataset.data
    channel, seen = RandomChannel(seed=1), []

    def spy(signal, name):
        seen.append(name)
        return channel(signal, name)

    spy.identity = channel.identity
    encoder = load_encoder("log_mel")
    extract_features(dataset, encoder, tmp_path, channel=spy, progress=False)
    assert seen == [key, key, key]
    spans = in_windows(dataset)[1]
    assert spans == [(key, 0, 20), (key, 10, 30), (key, 20, 33)]


def test_adaptation_to_long_recordings(tmp_path):
    """A recording counts once, however many windows it has."""
    encoder = load_encoder("log_mel")
    for n in range(3):
        wave = noise(26 + 9 * n, n, 16000)
        soundfile.write(tmp_path / f"{n}.wav", wave, 16000)
    dataset = find_recordings(tmp_path)
    check_audio(dataset)
    features = extract_features(dataset, encoder, tmp_path, progress=False)
    assert np.array_equal(features.array, features.select(features.ids))
    assert (
        len(features.array)
        == 3
        < len(features.select(features.ids, None, False))
    )
