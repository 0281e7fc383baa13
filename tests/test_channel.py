"""Random channels: deterministic, level kept, ranges met."""

import json
import multiprocessing

import numpy as np
import pytest
import torch

from speechbrain_ext.augment.channel import RandomChannel

# Ranges with which nothing but noise is left.
NOISE_ONLY = dict(
    gain_db=0.0,
    low_cut_hz=(1e-6, 1e-6),
    high_cut_hz=(1e9, 1e9),
    direct_to_reverb_db=(200.0, 200.0),
)


def noise(n_samples=32000):
    return torch.randn(n_samples, generator=torch.manual_seed(0)) / 10


def rms(wav):
    return float(wav.double().square().mean().sqrt())


def in_another_process(args):
    seed, key, wav = args
    return RandomChannel(seed)(torch.from_numpy(wav), key).numpy()


def test_depends_on_seed_and_key_alone():
    wav, channel = noise(8000), RandomChannel(3)
    first = channel(wav, "a")
    assert not torch.equal(first, channel(wav, "b"))
    assert not torch.equal(first, RandomChannel(4)(wav, "a"))
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(RandomChannel(3)(wav, "a"), first)
    # A key and seed that give the same text when joined.
    assert not torch.equal(RandomChannel(31)(wav, "a"), channel(wav, "1a"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (other,) = pool.map(in_another_process, [(3, "a", wav.numpy())])
    assert np.array_equal(other, first.numpy())


@pytest.mark.parametrize("n_samples", [1, 2, 57, 399, 16001])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1, 1e4])
def test_keeps_length_and_rms(n_samples, scale):
    wav = noise(n_samples) * scale
    before = wav.clone()
    out = RandomChannel(0)(wav, "a")
    assert out.shape == wav.shape and out.dtype == torch.float32
    assert torch.isfinite(out).all()
    assert rms(out) == pytest.approx(rms(wav), rel=1e-3, abs=1e-25)
    assert torch.equal(wav, before)


def test_noise_is_within_the_range_of_snr():
    wav = noise().double()
    channel = RandomChannel(0, snr_db=(5.0, 30.0), **NOISE_ONLY)
    found = []
    for i in range(40):
        out = channel(wav.float(), f"utt{i}").double()
        # The part of the output that is the input; what is left is noise.
        signal = (out @ wav) / (wav @ wav) * wav
        found.append(20 * np.log10(rms(signal) / rms(out - signal)))
    assert 4.5 < min(found) < 10 and 25 < max(found) < 30.5


def test_direct_path_is_not_shifted():
    channel = RandomChannel(0, snr_db=(60.0, 60.0))
    wav = noise(16000)
    for i in range(10):
        out, clean = (
            torch.fft.rfft(x, 32768) for x in (channel(wav, str(i)), wav)
        )
        assert torch.fft.irfft(out * clean.conj()).abs().argmax() == 0


def test_changes_the_spectrum():
    """Two channels differ by several dB in the bands of white noise."""
    wav, channel = noise(64000), RandomChannel(0)
    edges = (np.geomspace(100, 8000, 13) / 16000 * 64000).astype(int)
    found = []
    for i in range(10):
        power = torch.fft.rfft(channel(wav, str(i)).double()).abs().square()
        bands = np.split(power.numpy(), edges)[1:-1]
        found.append([10 * np.log10(band.mean()) for band in bands])
    assert 3 < np.std(found, axis=0).mean() < 20


def test_identity_is_json_and_tells_channels_apart():
    identity = RandomChannel(1).identity
    assert json.loads(json.dumps(identity)) == identity
    assert identity != RandomChannel(2).identity
    assert identity != RandomChannel(1, snr_db=(0.0, 30.0)).identity
    # Lists come from YAML.
    assert identity == RandomChannel(1, snr_db=[5.0, 30.0]).identity
