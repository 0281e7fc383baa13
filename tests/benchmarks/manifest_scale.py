"""What manifests and finished caches of many utterances cost.

    python tests/benchmarks/manifest_scale.py [ROWS ...]

For 100,000 and 1,000,000 rows, unless told otherwise, each step in a fresh
process: the most memory that it takes beyond what was held before, and CPU time
beside a plain operation on the same file, by turns, three rounds. A manifest
has 20,000 speakers and 2,000 sentences; the audio of a cache is one small file
that all rows are parts of, its features are noise, 192 numbers a row. Takes
some minutes, and 1 GB of disk.
"""

import csv
import functools
import json
import logging
import pathlib
import pickle
import tempfile
import types

import clock
import numpy as np
import soundfile

from speechbrain_ext.dataio import feature_cache, manifest, splits

FACTORS, DIM = ["speaker", "content"], 192
SPLITS = ("train", "train", "train", "valid", "test")


def write_manifest(folder, count):
    """One of audio that is not there."""
    rng = np.random.default_rng(0)
    drawn = rng.integers([20_000, 2000], size=(count, 2))
    seconds = rng.uniform(1, 15, count)
    with open(folder / "manifest.csv", "w", encoding="utf-8") as file:
        file.write("ID,wav,speaker,content,duration,split\n")
        for row, (speaker, content) in enumerate(drawn):
            file.write(
                f"u{row:07},/corpus/audio/s{speaker:05}/{row:07}.flac,"
                f"s{speaker:05},c{content:04},{seconds[row]:.3f},"
                f"{SPLITS[speaker % 5]}\n"
            )


def given(folder):
    """What finds the cache in a folder, or is to be in it."""
    encoder = types.SimpleNamespace(
        identity={"name": "stand-in"}, n_layers=1, dim=DIM, sample_rate=16000
    )
    dataset = manifest.load_manifest(folder / "parts.csv")
    return dataset, encoder, folder / "caches"


def write_cache(folder, count):
    """A finished one, and the manifest of parts of one file that it is of."""
    soundfile.write(folder / "a.wav", np.zeros(8800), 16000)
    with open(folder / "parts.csv", "w", encoding="utf-8") as file:
        file.write("ID,wav,start,stop,duration\n")
        for row in range(count):
            first = row % 800
            file.write(f"u{row:07},a.wav,{first},{first + 8000},0.5\n")
    cache, spec, *_ = feature_cache._cache_of(
        *given(folder), "features", None, "float32", None, "fp32"
    )
    cache.mkdir()
    rng = np.random.default_rng(0)
    features = rng.standard_normal(spec["shape"], dtype=np.float32)
    np.save(cache / "features.npy", features)
    sums = map(feature_cache._row_sum, features)
    np.save(cache / "sums.npy", np.fromiter(sums, np.uint32, count))
    (cache / "index.json").write_text(json.dumps(spec))


def load(folder):
    """The manifest."""
    return manifest.load_manifest(folder / "manifest.csv", factors=FACTORS)


def split_at_random(folder):
    """Of speakers and sentences, where there is no column."""
    dataset = load(folder)
    del dataset.data.columns["split"]
    return lambda: splits.split_manifest(dataset, *FACTORS)


def of_ids(function, *more):
    """A function of a manifest and all its IDs."""

    def prepare(folder):
        dataset = load(folder)
        return functools.partial(function, dataset, [*dataset.data], *more)

    return prepare


def select(order):
    """Features of all utterances of the cache."""

    def prepare(folder):
        features = feature_cache.extract_features(*given(folder))
        ids = features.ids if order == 1 else features.ids[::order]
        return lambda: features.select(ids)

    return prepare


def of_cache(function):
    """A function of what finds the cache."""
    return lambda folder: functools.partial(function, *given(folder))


# Name -> (what is prepared in a folder, and gives the step that is measured)
STEPS = {
    "load_manifest": lambda folder: functools.partial(load, folder),
    "split_manifest by column": of_ids(
        lambda dataset, _: splits.split_manifest(dataset, "speaker")
    ),
    "split_manifest at random": split_at_random,
    "factor_labels": of_ids(manifest.factor_labels, FACTORS),
    "subset": of_ids(manifest.subset),
    "each row as a dict": of_ids(lambda dataset, _: [*dataset.data.values()]),
    "pickle": of_ids(lambda dataset, _: pickle.dumps(dataset)),
}
CACHE_STEPS = {
    "missing_hours": of_cache(feature_cache.missing_hours),
    "extract_features": of_cache(feature_cache.extract_features),
    "select in order": select(1),
    "select backwards": select(-1),
}


def read_csv(folder):
    """The plain operation beside those of a manifest."""
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        for _ in csv.reader(file):
            pass


def read_features(folder):
    """The plain operation beside those of a cache."""
    [path] = folder.glob("caches/*/features.npy")
    np.load(path)


def of_step(name, folder, count, rounds):
    """Columns of a step, in a fresh process."""
    logging.disable(logging.WARNING)  # of what is left out
    beside, plain = "csv.reader", read_csv
    if name in CACHE_STEPS:
        beside, plain = "np.load", read_features
    step = (STEPS | CACHE_STEPS)[name](folder)
    taken = clock.peak(step)
    measured = {"step": step, "plain": functools.partial(plain, folder)}
    times = clock.by_turns(measured, rounds)
    rows = f"{count:,} rows"
    return {
        f"us, {rows}": 1e6 * np.median(times["step"]) / count,
        f"bytes, {rows}": taken / count,
        f"ratio, {rows}": clock.spread(times["step"] / times["plain"]),
        "beside": beside,
    }


def measure(*counts, rounds=3):
    """A row for each step."""
    found = {name: {} for name in (*STEPS, *CACHE_STEPS)}
    for count in counts or (100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            write_manifest(folder, count)
            write_cache(folder, count)
            for name, row in found.items():
                row |= clock.fresh(of_step, name, folder, count, rounds)
    return found


if __name__ == "__main__":
    clock.main(measure)
