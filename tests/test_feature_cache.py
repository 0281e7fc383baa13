"""The pooled-feature cache: keys, resuming, refusals."""

import errno
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
import soundfile
import torch
from filelock import FileLock
from test_errors import no_room

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain_ext.augment.channel import RandomChannel
from speechbrain_ext.dataio import digests, feature_cache
from speechbrain_ext.dataio.audio import check_audio
from speechbrain_ext.dataio.columns import set_values
from speechbrain_ext.dataio.digests import audio_digests
from speechbrain_ext.dataio.feature_cache import extract_features, missing_hours
from speechbrain_ext.dataio.feature_plans import plan_conditions
from speechbrain_ext.dataio.manifest import (
    find_recordings,
    load_manifest,
    subset,
)
from speechbrain_ext.dataio.pooled_features import PooledFeatures
from speechbrain_ext.dataio.splits import SPLITS, in_split
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.pooled_encoder import PRECISIONS, similar_rows
from speechbrain_ext.lobes.pooling import POOLINGS
from speechbrain_ext.utils import shards
from speechbrain_ext.utils.errors import InputError, explain


class Statistics(torch.nn.Module):
    """Two layers of two statistics, counting the utterances it sees."""

    sample_rate, n_layers, dim = 16000, 2, 2

    def __init__(self, fail_after=np.inf, version=1, gain=1):
        super().__init__()
        self.seen, self.fail_after, self.gain = 0, fail_after, gain
        self.identity = {"name": "statistics", "version": version}

    def forward(self, wavs, wav_lens):
        self.seen += len(wavs)
        if self.seen > self.fail_after:
            raise KeyboardInterrupt
        rows = []
        for wav, length in zip(wavs, wav_lens):
            wav = wav[: int(round(length.item() * wavs.shape[1]))]
            rows.append([[len(wav), wav.std()], [wav.min(), wav.max()]])
        return self.gain * torch.tensor(rows)


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
        expected = [[len(wav), wav.std(ddof=1)], [wav.min(), wav.max()]]
        assert np.allclose(features.array[i], expected, rtol=1e-4)
    ids = [features.ids[7], features.ids[3]]
    chosen = features.select(ids, layers=[-1])
    assert chosen.shape == (2, 1, 2) and chosen.dtype == torch.float32
    assert chosen[0, 0, 1] == features.array[7, 1, 1]
    half = extract(dataset, tmp_path, dtype="float16").array
    assert half.dtype == np.float16
    assert np.allclose(half, features.array, rtol=1e-3)


def test_conditions_have_no_takes_that_nobody_reads(dataset, tmp_path):
    """Validation utterances are in as many takes as the network has."""
    splits = {name: in_split(dataset, name) for name in SPLITS}
    planned = plan_conditions(
        *(dataset, splits, Statistics(), RandomChannel, 2, 1, 7000),
        cache_folder=tmp_path,
        progress=False,
    )
    found = {name: compute() for name, compute in planned.items()}
    train, valid, test = splits.values()
    assert {name: one.ids for name, one in found.items()} == {
        "recorded": train + valid + test,
        "take1": train + valid,
        "take2": train,
        "channels": test,
    }
    takes = [found[name].select(train[:1]) for name in list(found)[:3]]
    assert len({take.sum().item() for take in takes}) == 3


def test_two_runs_at_the_same_time_and_one_afterwards(dataset, tmp_path):
    """One computes, the other waits and reads; the last only reads."""
    encoders = [Statistics(), Statistics()]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(extract, dataset, tmp_path, e) for e in encoders]
        first, second = (run.result().array for run in runs)
    assert sorted(encoder.seen for encoder in encoders) == [0, 94]
    third = extract(dataset, tmp_path, Statistics(fail_after=0)).array
    assert np.array_equal(first, second) and np.array_equal(first, third)


def test_what_a_filter_of_speechbrain_leaves(dataset, tmp_path):
    """Is encoded alone, in its order; and is what recordings are."""
    whole = extract(dataset, tmp_path)
    options = {"sort_key": "wav", "reverse": True, "select_n": 5}
    some = dataset.filtered_sorted(**options)
    found = extract(some, tmp_path)
    assert found.ids == some.data_ids and len(found.ids) == 5
    assert np.array_equal(found.array, whole.select(found.ids).numpy())
    assert list(find_recordings(some).data) == some.data_ids
    assert find_recordings(dataset) is dataset


def test_interrupt_and_resume(dataset, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extract(dataset, tmp_path, Statistics(fail_after=30))
    (partial,) = tmp_path.glob("*.partial")
    assert not (tmp_path / partial.stem).exists()
    hours = sum(row["duration"] for row in dataset.data.values()) / 3600
    left = missing_hours(dataset, Statistics(), tmp_path)
    assert 0.7 * hours < left < 0.75 * hours
    sums = (partial / "sums.npy").read_bytes()
    (partial / "sums.npy").write_bytes(b"")
    left = missing_hours(dataset, Statistics(), tmp_path)
    assert left == pytest.approx(hours)
    (partial / "sums.npy").write_bytes(sums)
    encoder = Statistics()
    resumed = extract(dataset, tmp_path, encoder)
    assert encoder.seen == 94 - 24  # three whole batches were kept
    assert not list(tmp_path.glob("*.partial"))
    assert missing_hours(dataset, encoder, tmp_path) == 0
    whole = extract(dataset, tmp_path / "other")
    assert np.array_equal(resumed.array, whole.array)


def test_the_key_follows_encoder_channel_type_ids_and_audio(
    small_grid, tmp_path
):
    copied = shutil.copytree(small_grid, tmp_path / "grid")
    wav = copied / "wav/s0_c1_0.wav"
    samples, _ = soundfile.read(wav)

    def loudness(count=4, encoder=None, **options):
        """Of the first utterance; and how many caches there are."""
        loaded = load_manifest(copied / "manifest.csv")
        check_audio(loaded)
        part = subset(loaded, list(loaded.data)[:count])
        found = extract(part, tmp_path / "cache", encoder, **options)
        folders = [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]
        return round(found.array[0, 1, 1] / samples.max(), 2), len(folders)

    assert loudness() == (1, 1)
    assert loudness(encoder=Statistics(version=2)) == (1, 2)
    assert loudness(dtype="float16") == (1, 3)
    assert loudness(channel=RandomChannel(1))[1] == 4
    assert loudness(count=3) == (1, 5)
    assert loudness() == (1, 5)
    soundfile.write(wav, 0.5 * samples, 16000)
    assert loudness() == (0.5, 6)


def test_the_key_follows_the_layers(dataset, tmp_path):
    """As many others have the same shape."""
    part = subset(dataset, list(dataset.data)[:2])
    both = extract(part, tmp_path).array
    for layer in (0, 1):
        found = extract(part, tmp_path, layers=[layer]).array
        assert np.array_equal(found, both[:, [layer]])


def test_the_key_follows_the_pooling(dataset, tmp_path):
    part = subset(dataset, list(dataset.data)[:2])
    found = {
        pooling: extract(part, tmp_path, load_encoder("mini", pooling=pooling))
        for pooling in (*POOLINGS, None)
    }
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 3
    assert np.array_equal(found[None].array, found["mean"].array)
    assert found["mean_std"].array.shape == (2, 5, 576)
    assert np.array_equal(
        found["mean_std"].array[..., :288], found["mean"].array
    )
    assert (found["max"].array > found["mean"].array).mean() > 0.99
    # As it was before there was a choice: those caches stay valid.
    [mean] = (
        index
        for path in tmp_path.glob("*/index.json")
        if (index := json.loads(path.read_text()))["pooling"] == "mean"
    )
    assert "pooling" not in mean["encoder"]


def test_digests_are_remembered_and_know_segments(dataset, tmp_path):
    memo = tmp_path / "digests.tsv"
    part = subset(dataset, list(dataset.data)[:40])
    audio_digests(part, memo)
    digests = audio_digests(dataset, memo)
    known = memo.read_text()
    assert len(set(digests)) == known.count(".wav") == 94
    # A remembered digest is used as long as size and time are the same.
    wav = dataset.data["s0_c1_0"]["wav"]
    [line] = (line for line in known.splitlines() if line.endswith(wav))
    size, changed, digest, _ = line.split("\t")
    for stamp, found in ((changed, "remembered"), ("1", digest)):
        memo.write_text(f"{known}{size}\t{stamp}\tremembered\t{wav}\n")
        assert f"{found}:" in audio_digests(dataset, memo)
    assert audio_digests(dataset) == digests
    part = subset(dataset, [next(iter(dataset.data))])
    whole = audio_digests(part)
    set_values(part.data, "stop", dict.fromkeys(part.data, 10))
    assert audio_digests(part) != whole == digests[:1]


def test_digests_outlive_a_kill(dataset, tmp_path, monkeypatch):
    """What was noted stays, also behind a line that was cut."""
    memo = tmp_path / "digests.tsv"
    read, wanted = [], audio_digests(dataset)
    made = digests.file_digest

    def file_digest(wav):
        read.append(wav)
        if len(read) == 50:
            raise KeyboardInterrupt
        return made(wav)

    monkeypatch.setattr(digests, "file_digest", file_digest)
    monkeypatch.setattr(digests, "AT_A_TIME", 10)
    with pytest.raises(KeyboardInterrupt):
        audio_digests(dataset, memo)
    memo.write_bytes(memo.read_bytes()[:-3])
    assert audio_digests(dataset, memo) == wanted
    assert len(read) == 50 + 94 - 39
    assert audio_digests(dataset, memo) == wanted
    assert len(read) == 50 + 94 - 39


def test_a_dataset_that_was_not_checked(dataset, small_grid, tmp_path):
    plain = load_manifest(small_grid / "manifest.csv")
    plain.data.columns.pop("duration")
    assert missing_hours(plain, Statistics(), tmp_path) > 0
    plain.data.columns.pop("duration")
    found = extract(plain, tmp_path).array
    assert np.array_equal(found, extract(dataset, tmp_path / "b").array)
    rows = dict(plain.data)
    del rows["s0_c1_0"]["duration"]
    rows["s0_c1_1"]["wav"] = "no.wav"
    plain = DynamicItemDataset(rows)
    with pytest.raises(InputError, match="'s0_c1_1': no file no.wav"):
        extract(plain, tmp_path)
    with pytest.raises(InputError, match="got 'm.csv': give what load_manif"):
        extract("m.csv", tmp_path)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def zero_last_row(path):
    path.write_bytes(path.read_bytes()[:-16] + bytes(16))


def break_heading(path):
    path.write_bytes(path.read_bytes().replace(b"}", b"(", 1))


def reverse(path):
    np.save(path, np.load(path)[::-1])


def part_count(number):
    """Damage to the number of parts."""
    return lambda path: path.write_text(
        path.read_text().replace("{", f'{{"parts": {number},', 1)
    )


DAMAGE = [
    *(("features.npy", one, 1) for one in (flip, zero_last_row)),
    *(("features.npy", one, 94) for one in (cut, reverse, break_heading)),
    ("sums.npy", flip, 1),
    *(("sums.npy", one, 94) for one in (cut, break_heading)),
    ("sums.npy", lambda path: np.save(path, np.zeros(94)), 94),
    *(("index.json", one, 94) for one in (cut, lambda p: p.write_text("[]"))),
    *((name, lambda p: p.unlink(), 94) for name in ("index.json", "sums.npy")),
    *(("index.json", part_count(n), 94) for n in ("-1", '"2"')),
]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("name, damage, again", DAMAGE)
def test_what_is_damaged_is_made_again(
    dataset, tmp_path, name, damage, again, finished, caplog
):
    whole = np.array(extract(dataset, tmp_path).array)
    (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())
    if not finished:
        folder = folder.rename(folder.with_name(f"{folder.name}.partial"))
    damage(folder / name)
    encoder = Statistics()
    found = extract(dataset, tmp_path, encoder).array
    assert np.array_equal(found, whole) and encoder.seen == again
    messages = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert len(messages) == 1 and "made again" in messages[0]


def test_damaged_digests_block_nobody(dataset, tmp_path):
    memo = tmp_path / "digests.tsv"
    wanted = audio_digests(dataset)
    wav = dataset.data["s0_c1_0"]["wav"].encode()
    stamp = f"{os.stat(wav).st_size}\t{os.stat(wav).st_mtime_ns}".encode()
    for content in (
        b"",
        b"\n\0\xff\t\t\t",
        wav,
        b"\t" + wav,
        stamp + b"\t" + wav + b"\n",
        stamp + b"\tabc\t" + wav[:-1],
    ):
        memo.write_bytes(content)
        for _ in range(2):
            assert audio_digests(dataset, memo) == wanted
            assert memo.read_bytes().count(b"\n") == 95 + content.count(b"\n")
    memo.unlink()
    memo.mkdir()  # cannot be written
    assert audio_digests(dataset, memo) == wanted


def test_a_read_only_cache_can_be_read(dataset, tmp_path, monkeypatch):
    whole = extract(dataset, tmp_path).array

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr("speechbrain_ext.dataio.feature_cache.FileLock", refuse)
    (tmp_path / "digests.tsv").unlink()
    assert np.array_equal(extract(dataset, tmp_path).array, whole)
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(PermissionError):  # not taken for damage
        extract(dataset, tmp_path)


@pytest.mark.parametrize("size", [1000, 2**30])
def test_a_full_disk_is_told_before_anything_is_encoded(
    dataset, tmp_path, monkeypatch, size
):
    """Where a file cannot even be begun, and where there is no room for it."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    encoder = Statistics()
    said = "GB needed, .* free|File too large"  # of the index already
    with pytest.raises(OSError, match=said) as caught:
        with no_room(size):
            extract(dataset, tmp_path, encoder)
    assert "it goes on" in explain(caught.value)
    assert encoder.seen == 0 and not list(tmp_path.glob("*.partial/*.npy"))


def test_readers_may_be_started_afresh(small_grid, tmp_path):
    """As on macOS and Windows: what they run is sent to them."""
    code = (
        "import multiprocessing, sys\n"
        "from speechbrain_ext.dataio import audio, feature_cache, manifest\n"
        "from speechbrain_ext.lobes.encoders import load_encoder\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    data = manifest.load_manifest(sys.argv[1])\n"
        "    data = manifest.subset(data, list(data.data)[:4])\n"
        "    audio.check_audio(data)\n"
        "    found = feature_cache.extract_features(data, load_encoder("
        "'log_mel'), sys.argv[2], num_workers=2, progress=False)\n"
        "    print(found.array.shape)\n"
    )
    script = tmp_path / "spawn.py"
    script.write_text(code)
    command = [sys.executable, script, small_grid / "manifest.csv", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "(4, 1, 560)\n", done.stderr


@pytest.mark.parametrize("num_workers", [0, 2])
def test_nan_audio_is_one_line_also_from_a_worker(
    dataset, tmp_path, num_workers
):
    samples = np.append(np.zeros(5000), np.nan)
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    rows = dict(subset(dataset, ["s0_c1_0", "s0_c1_1"]).data)
    rows["s0_c1_1"] = {"wav": str(tmp_path / "nan.wav"), "duration": 0.3}
    bad = DynamicItemDataset(rows)
    with pytest.raises(InputError) as caught:
        extract(bad, tmp_path / "cache", num_workers=num_workers)
    assert "s0_c1_1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:overflow")
def test_features_that_do_not_fit_their_type_are_refused(dataset, tmp_path):
    with pytest.raises(InputError, match="not finite in float16"):
        extract(dataset, tmp_path, Statistics(gain=1e6), dtype="float16")
    with pytest.raises(InputError, match="Unknown dtype 'int8'"):
        extract(dataset, tmp_path, dtype="int8")


def test_batches_are_bucketed_by_length_and_bounded():
    durations = np.random.default_rng(0).uniform(0.5, 20, 200)
    batches = list(similar_rows(durations, most=60.0, at_most=16))
    assert sorted(sum(batches, [])) == list(range(200))
    lengths = [durations[row] for batch in batches for row in batch]
    assert lengths == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) <= 16
        assert len(batch) == 1 or durations[batch].max() * len(batch) <= 60.0
    assert len(batches) < 60


@pytest.mark.parametrize("count", [2, 3])
def test_shards(dataset, tmp_path, count):
    """Calls that share a folder: each encodes its own, and none copies."""
    whole = extract(dataset, tmp_path / "whole").array
    encoders = [Statistics() for _ in range(count)]
    for index, encoder in enumerate(encoders):
        shard = index, count
        assert extract(dataset, tmp_path, encoder, shard=shard) is None
    assert sum(encoder.seen for encoder in encoders) == 94
    assert max(encoder.seen for encoder in encoders) <= -(-94 // count)
    features = extract(dataset, tmp_path, Statistics(fail_after=0))
    assert len(features.parts) == count
    assert np.array_equal(features.array, whole)
    ids = features.ids[::-7]
    assert torch.equal(
        features.select(ids, [1]), torch.from_numpy(whole[::-7, 1:].copy())
    )


@pytest.mark.parametrize("shard", [(3, 2), (0, 0), (-1, 2), 1])
def test_a_shard_that_is_none(dataset, tmp_path, shard):
    with pytest.raises(InputError, match="shard.*an index below the count"):
        extract(dataset, tmp_path, shard=shard)


def test_a_lost_shard_is_made_again(dataset, tmp_path):
    """By any call; a part that is damaged too, and by a call in all parts."""
    whole = extract(dataset, tmp_path / "whole").array
    extract(dataset, tmp_path, shard=(1, 3))
    [partial] = tmp_path.glob("*.partial")
    encoder = Statistics(fail_after=40)
    with pytest.raises(KeyboardInterrupt):
        extract(dataset, tmp_path, encoder)
    # Another number of shards: those parts whose numbers are its own.
    again = Statistics()
    assert extract(dataset, tmp_path, again, shard=(1, 2)) is None
    assert again.seen == 0 and partial.is_dir()
    rest = Statistics()
    found = extract(dataset, tmp_path, rest)
    assert np.array_equal(found.array, whole)
    assert rest.seen == 94 - 31 - (encoder.seen - 8)  # the last batch was lost
    del found
    folder = partial.with_name(partial.name.removesuffix(".partial"))
    (folder / "features-2-of-3.npy").write_bytes(b"")
    mended = Statistics()
    assert np.array_equal(extract(dataset, tmp_path, mended).array, whole)
    assert mended.seen == 31


def test_shards_at_the_same_time(dataset, tmp_path):
    """Calls with and without a shard: each row once, and all get the same."""
    whole = extract(dataset, tmp_path / "whole").array
    shards = [(0, 3), (1, 3), (2, 3), None, None]
    encoders = [Statistics() for _ in shards]
    with ThreadPoolExecutor(len(shards)) as pool:
        runs = [
            pool.submit(extract, dataset, tmp_path, encoder, shard=shard)
            for encoder, shard in zip(encoders, shards)
        ]
        found = [run.result() for run in runs]
    assert sum(encoder.seen for encoder in encoders) == 94
    assert found[:3] == [None] * 3
    assert all(np.array_equal(one.array, whole) for one in found[3:])


def test_a_cache_gets_its_name_while_no_call_begins(dataset, tmp_path):
    """One that begins looks at both names, and would make it once more."""
    for index in range(2):
        extract(dataset, tmp_path, shard=(index, 2))
    [partial] = tmp_path.glob("*.partial")
    folder = partial.with_suffix("")
    with ThreadPoolExecutor(1) as pool:
        with FileLock(f"{folder}.lock"):
            ended = pool.submit(feature_cache._finish, folder, 2)
            assert wait([ended], 0.3).not_done and not folder.is_dir()
        ended.result()
    assert folder.is_dir() and not partial.is_dir()


def test_a_call_that_is_overtaken_is_told_what_cannot_be_read(
    tmp_path, monkeypatch
):
    """Features of zeros are none."""
    soundfile.write(tmp_path / "good.wav", np.ones(800) / 9, 16000)
    bad = np.full(800, np.nan, "float32")
    soundfile.write(tmp_path / "bad.wav", bad, 16000, subtype="FLOAT")
    dataset = find_recordings(tmp_path)
    check_audio(dataset)
    lock, told = feature_cache._lock, [{}, {}]

    def overtaken(*arguments):
        """Another call does all of it before this one takes its first part."""
        monkeypatch.setattr(feature_cache, "_lock", lock)
        extract(dataset, tmp_path, unreadable=told[0])
        return lock(*arguments)

    monkeypatch.setattr(feature_cache, "_lock", overtaken)
    extract(dataset, tmp_path, unreadable=told[1])
    assert [list(one) for one in told] == [["bad.wav"]] * 2


def test_rows_of_a_few_windows():
    """Rows of utterances in windows stand together, in any number of parts."""
    rows = np.arange(7.0).reshape(7, 1, 1)
    for parts in ([rows], [rows[::2], rows[1::2]]):
        features = PooledFeatures(parts, "abbbcdd", [1, 1, 2, 1, 1, 1, 3])
        assert features.ids == list("abcd")
        found = features.select(["d", "a", "b"]).flatten()
        assert torch.allclose(found, torch.tensor([5.75, 0, 2]))
        apart = features.select(["d", "b"], joined=False).flatten()
        assert apart.tolist() == [5, 6, 1, 2, 3]
        assert np.allclose(features.array.ravel(), [0, 2, 4, 5.75])
        assert features.select([]).shape == (0, 1, 1)
        with pytest.raises(KeyError, match="x"):
            features.select(["x"])


@pytest.mark.parametrize("precision, least", [("bf16", 1e-6), ("fp16", 1e-8)])
def test_mixed_precision(dataset, tmp_path, precision, least):
    """Nearly the same, in a cache of its own, and pooled in float32."""
    part = subset(dataset, list(dataset.data)[:3])
    whole, mixed = (
        extract(part, tmp_path, load_encoder("mini"), precision=one).array
        for one in ("fp32", precision)
    )
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2
    whole, mixed = torch.from_numpy(whole + 0.0), torch.from_numpy(mixed + 0.0)
    far = 1 - torch.cosine_similarity(whole.double(), mixed.double(), dim=-1)
    assert least < far.max() < 1e-4
    # A mean of frames in half precision would be rounded to it.
    assert not torch.equal(mixed.to(PRECISIONS[precision]).float(), mixed)
    options = {"name": "features", "dtype": "float32", "precision": precision}
    assert missing_hours(part, load_encoder("mini"), tmp_path, **options) == 0
    with pytest.raises(InputError, match="Unknown precision 'int8': expected"):
        extract(part, tmp_path, precision="int8")


def test_readers_by_the_cores_of_a_process(monkeypatch):
    """Of processes that share a machine; none for a small data set."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    found = {}
    for cores in (2, 4, 64):
        monkeypatch.setattr(shards, "cpu_count", lambda n=cores: n)
        found[cores] = feature_cache._readers(5000)
    assert found == {2: 0, 4: 2, 64: 4}
    assert feature_cache._readers(500) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert feature_cache._readers(5000) == 2
