"""The pooled-feature cache: keys, resuming, refusals."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_ext.augment.channel import RandomChannel
from speechbrain_ext.dataio.feature_cache import (
    _batches,
    audio_digests,
    extract_conditions,
    extract_features,
)
from speechbrain_ext.dataio.manifest import (
    SPLITS,
    check_audio,
    in_split,
    load_manifest,
    subset,
)
from speechbrain_ext.utils.errors import InputError


class Statistics(torch.nn.Module):
    """Two layers of two statistics, counting the utterances it sees."""

    sample_rate, n_layers, dim = 16000, 2, 2

    def __init__(self, fail_after=None, version=1):
        super().__init__()
        self.seen, self.fail_after = 0, fail_after
        self.identity = {"name": "statistics", "version": version}

    def forward(self, wavs, wav_lens):
        self.seen += len(wavs)
        if self.fail_after is not None and self.seen > self.fail_after:
            raise KeyboardInterrupt
        rows = []
        for wav, length in zip(wavs, wav_lens):
            wav = wav[: int(round(length.item() * wavs.shape[1]))]
            rows.append([[len(wav), wav.std()], [wav.min(), wav.max()]])
        return torch.tensor(rows)


@pytest.fixture
def dataset(small_grid):
    loaded = load_manifest(small_grid / "manifest.csv")
    check_audio(loaded)
    return loaded


def extract(dataset, folder, encoder=None, **options):
    options = {"batch_size": 8, "progress": False} | options
    return extract_features(dataset, encoder or Statistics(), folder, **options)


def test_values_and_order(dataset, tmp_path):
    features = extract(dataset, tmp_path)
    assert features.array.shape == (94, 2, 2)
    assert isinstance(features.array, np.memmap)
    assert features.ids == list(dataset.data)
    for i in (0, 40, 93):
        wav, _ = soundfile.read(dataset.data[features.ids[i]]["wav"])
        assert features.array[i, 0, 0] == len(wav)
        assert features.array[i, 0, 1] == pytest.approx(wav.std(ddof=1), 1e-4)
        assert features.array[i, 1, 1] == pytest.approx(wav.max(), 1e-6)
    ids = [features.ids[7], features.ids[3]]
    chosen = features.select(ids, layers=[-1])
    assert chosen.shape == (2, 1, 2) and chosen.dtype == torch.float32
    assert chosen[0, 0, 1] == features.array[7, 1, 1]


def test_conditions_have_no_takes_that_nobody_reads(dataset, tmp_path):
    """Validation utterances are in as many takes as the network has."""
    splits = {name: in_split(dataset, name) for name in SPLITS}
    found = extract_conditions(
        *(dataset, splits, Statistics(), RandomChannel, 2, 1, 7000),
        cache_folder=tmp_path,
        progress=False,
    )
    train, valid, test = splits.values()
    assert {name: one.ids for name, one in found.items()} == {
        "clean": train + valid + test,
        "take1": train + valid,
        "take2": train,
        "shifted": test,
    }
    one = train[:1]
    values = [found[name].select(one) for name in ("clean", "take1", "take2")]
    assert len({value.sum().item() for value in values}) == 3


def test_second_time_nothing_is_computed(dataset, tmp_path):
    first = extract(dataset, tmp_path)
    encoder = Statistics()
    again = extract(dataset, tmp_path, encoder)
    assert encoder.seen == 0
    assert np.array_equal(first.array, again.array)


def test_two_runs_at_the_same_time(dataset, tmp_path):
    """One computes, the other waits and reads."""
    encoders = [Statistics(), Statistics()]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(extract, dataset, tmp_path, e) for e in encoders]
        first, second = (run.result().array for run in runs)
    assert sorted(encoder.seen for encoder in encoders) == [0, 94]
    assert np.array_equal(first, second)


def test_half_precision(dataset, tmp_path):
    full, half = (
        extract(dataset, tmp_path, dtype=d) for d in ("float32", "float16")
    )
    assert half.array.dtype == np.float16
    assert np.allclose(full.array, half.array, rtol=1e-3)


def test_interrupt_and_resume(dataset, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extract(dataset, tmp_path, Statistics(fail_after=30))
    (partial,) = tmp_path.glob("*.partial")
    assert not (tmp_path / partial.stem).exists()
    encoder = Statistics()
    resumed = extract(dataset, tmp_path, encoder)
    assert encoder.seen == 94 - 24  # three whole batches were kept
    assert not list(tmp_path.glob("*.partial"))
    whole = extract(dataset, tmp_path / "other")
    assert np.array_equal(resumed.array, whole.array)


def folders(path):
    return {p.name for p in path.iterdir() if p.is_dir()}


def test_the_key_follows_encoder_channel_type_ids_and_audio(
    small_grid, tmp_path
):
    copied = tmp_path / "grid"
    shutil.copytree(small_grid, copied)
    cache = tmp_path / "cache"

    def load():
        loaded = load_manifest(copied / "manifest.csv")
        check_audio(loaded)
        return subset(loaded, list(loaded.data)[:4])

    class Louder:
        identity = {"gain": 2}

        def __call__(self, signal, key):
            return 2 * signal

    extract(load(), cache)
    extract(load(), cache, Statistics(version=2))
    extract(load(), cache, dtype="float16")
    louder = extract(load(), cache, channel=Louder())
    assert louder.array[0, 1, 1] == pytest.approx(
        2 * extract(load(), cache).array[0, 1, 1]
    )
    extract(subset(load(), list(load().data)[:3]), cache)
    assert len(folders(cache)) == 5
    wav = load().data["s0_c1_0"]["wav"]
    samples, rate = soundfile.read(wav)
    soundfile.write(wav, 0.5 * samples, rate)
    halved = extract(load(), cache)
    assert len(folders(cache)) == 6
    assert halved.array[0, 1, 1] == pytest.approx(0.5 * samples.max(), 1e-3)


def test_digests_are_remembered(dataset, tmp_path):
    memo = tmp_path / "digests.json"
    digests = audio_digests(dataset, memo)
    known = json.loads(memo.read_text())
    assert len(set(digests)) == len(known) == 94
    # A remembered digest is used as long as size and time are the same.
    wav = next(iter(known))
    known[wav][1] = "remembered"
    memo.write_text(json.dumps(known))
    assert "remembered:" in audio_digests(dataset, memo)
    assert audio_digests(dataset) == digests


def test_segments_have_their_own_digest(dataset):
    row = dataset.data["s0_c1_0"]
    whole = subset(dataset, ["s0_c1_0"])
    part = subset(dataset, ["s0_c1_0"])
    part.data["s0_c1_0"] = row | {"start": 0, "stop": 10}
    assert audio_digests(whole) != audio_digests(part)


def test_a_cache_of_something_else_is_refused(dataset, tmp_path):
    extract(dataset, tmp_path)
    (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())
    index = json.loads((folder / "index.json").read_text())
    index["encoder"]["version"] = 9
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="differs in encoder"):
        extract(dataset, tmp_path)
    (folder / "features.npy").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        extract(dataset, tmp_path)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_nan_audio_is_one_line_also_from_a_worker(
    dataset, tmp_path, num_workers
):
    samples = np.zeros(5000, dtype=np.float32)
    samples[9] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    bad = subset(dataset, ["s0_c1_0", "s0_c1_1"])
    bad.data["s0_c1_1"] = {"wav": str(tmp_path / "nan.wav"), "duration": 0.3}
    with pytest.raises(InputError) as caught:
        extract(bad, tmp_path / "cache", num_workers=num_workers)
    assert "s0_c1_1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:overflow")
def test_features_that_overflow_are_refused(dataset, tmp_path):
    class Large(Statistics):
        def forward(self, wavs, wav_lens):
            return 1e6 * super().forward(wavs, wav_lens)

    with pytest.raises(InputError, match="not finite in float16"):
        extract(dataset, tmp_path, Large(), dtype="float16")


def test_batches_are_bucketed_by_length_and_bounded():
    rng = np.random.default_rng(0)
    durations = rng.uniform(0.5, 20, 200)
    batches = list(_batches(durations, batch_size=16, batch_seconds=60.0))
    assert sorted(sum(batches, [])) == list(range(200))
    previous = np.inf
    for batch in batches:
        longest = durations[batch].max()
        assert longest <= previous
        previous = durations[batch].min()
        assert len(batch) <= 16
        assert len(batch) == 1 or longest * len(batch) <= 60.0
