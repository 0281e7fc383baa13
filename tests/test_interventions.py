"""Interventions on single recordings: reproducible, and what they change."""

import json
from functools import partial

import pytest
import torch

from speechbrain_ext.augment.channel import RandomChannel
from speechbrain_ext.augment.interventions import Chain, RandomCrop, RandomSpeed

MADE = {
    "crop": RandomCrop,
    "speed": RandomSpeed,
    "channel": RandomChannel,
    "chain": lambda seed: Chain(RandomCrop(seed), RandomSpeed(seed + 1)),
}


def noise(n_samples=16000):
    return torch.randn(n_samples, generator=torch.manual_seed(0)) / 10


@pytest.mark.parametrize("name", MADE)
def test_depends_on_seed_and_key_alone(name):
    made, wav, keys = MADE[name], noise(), ["a", "b/ü d", "c"]
    before, one = wav.clone(), made(3)
    first = {key: one(wav, key) for key in keys}
    torch.manual_seed(9)
    again = made(3)
    for key in reversed(keys):
        assert torch.equal(again(wav, key), first[key])
    assert not torch.equal(first["a"], first["c"])
    assert not torch.equal(first["a"], made(4)(wav, "a"))
    assert torch.equal(wav, before)


@pytest.mark.parametrize("name", MADE)
def test_identity_tells_what_determines_the_signals(name):
    one = MADE[name](3).identity
    assert json.loads(json.dumps(one)) == one == MADE[name](3).identity
    assert one != MADE[name](4).identity
    others = [json.dumps(made(3).identity) for made in MADE.values()]
    assert len(set(others)) == len(MADE)


def test_identity_has_all_settings():
    """Lists, as a file of options has them, are the same as tuples."""
    one = RandomCrop(1).identity
    assert one == RandomCrop(1, share=[0.4, 0.7]).identity
    for options in (
        {"share": (0.4, 0.6)},
        {"min_seconds": 0.4},
        {"sample_rate": 8000},
    ):
        assert RandomCrop(1, **options).identity != one
    assert RandomSpeed(1, speed=(0.9, 1)).identity != RandomSpeed(1).identity
    chain = Chain(RandomCrop(1), RandomSpeed(2)).identity
    assert chain != Chain(RandomSpeed(2), RandomCrop(1)).identity


@pytest.mark.parametrize("n_samples", [1, 800, 8000, 9000, 20000, 48000])
def test_a_crop_is_a_part(n_samples):
    """A part of its share of the length, or all there is, but min_seconds."""
    wav = torch.arange(float(n_samples))
    least, starts = 8000, set()
    for key in map(str, range(40)):
        part = RandomCrop(1)(wav, key)
        assert torch.equal(part, part[0] + torch.arange(float(len(part))))
        assert part[-1] < n_samples
        assert len(part) >= min(least, n_samples)
        assert len(part) <= max(0.7 * n_samples + 1, min(least, n_samples))
        assert len(part) >= 0.4 * n_samples - 1
        starts.add(int(part[0]))
    assert (len(starts) > 30) == (n_samples > least)


@pytest.mark.parametrize("n_samples", [16000, 16001, 48000])
def test_halves_have_nothing_in_common(n_samples):
    """Whatever seed, key and share are; all but one sample is in one."""
    wav = torch.arange(float(n_samples))
    halves = [
        RandomCrop(seed, share=(0.1, 0.9), half=half)(wav, str(seed))
        for seed, half in enumerate((0, 1))
    ]
    assert len(halves[0]) == len(halves[1]) == n_samples // 2
    assert halves[0][0] == 0 and halves[1][-1] == n_samples - 1
    assert halves[0][-1] < halves[1][0]


@pytest.mark.parametrize("n_samples", [1, 7999, 8000, 12000])
def test_halves_of_short_recordings(n_samples):
    """They keep half a second, of both ends."""
    wav = torch.arange(float(n_samples))
    for half, ends in ((0, 0), (1, -1)):
        part = RandomCrop(1, half=half)(wav, "a")
        assert len(part) == min(8000, n_samples)
        assert part[ends] == wav[ends]
    assert RandomCrop(1, half=0).identity != RandomCrop(1, half=1).identity


@pytest.mark.parametrize("factor", [0.75, 1.0, 1.33])
def test_speed_changes_length_and_pitch(factor):
    time = torch.arange(16000) / 16000
    wav = torch.sin(2 * torch.pi * 400 * time)
    fast = RandomSpeed(1, speed=(factor, factor))(wav, "a")
    assert len(fast) == pytest.approx(16000 / factor, abs=1)
    peak = torch.fft.rfft(fast).abs().argmax() * 16000 / len(fast)
    assert float(peak) == pytest.approx(400 * factor, abs=2)


def test_speeds_cover_their_range():
    lengths = [len(RandomSpeed(1)(noise(1600), str(i))) for i in range(200)]
    speeds = 1600 / torch.tensor(lengths)
    assert 0.74 < speeds.min() < 0.78 and 1.28 < speeds.max() < 1.34
    # As often slower as faster
    assert 0.4 < (speeds > 1).float().mean() < 0.6


def test_a_chain_is_one_after_the_other():
    parts = RandomCrop(1), RandomSpeed(2), RandomChannel(3)
    wav = noise()
    expected = wav
    for part in parts:
        expected = part(expected, "a")
    assert torch.equal(Chain(*parts)(wav, "a"), expected)
    made = partial(RandomCrop, share=(0.5, 0.5))(seed=1, sample_rate=8000)
    assert len(made(wav, "a")) == 8000
