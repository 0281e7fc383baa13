"""Fixtures: a small grid of real waveforms, and where shared data lies."""

import contextlib
import csv
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_ext.dataio.pooled_features import PooledFeatures
from speechbrain_ext.evaluation.results import select
from speechbrain_ext.utils.errors import one_line_errors

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
# Files of SpeechBrain: they import what a checkout of it has.
collect_ignore = ["upstream/series"]


@pytest.fixture(scope="session")
def shared():
    """The folder of shared development data, or a skip."""
    if not SHARED.is_dir():
        pytest.skip("development data (../shared) is not here")
    return SHARED


def load_script(path):
    """A recipe's script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        spec.loader.exec_module(module)
    return module


def call_script(path, hparams, *options):
    """A recipe's script in its folder, as on the command line.

    Of an option that is given twice the last one counts. Returns what was
    printed.
    """
    chosen = {str(o).partition("=")[0]: str(o) for o in options}
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        # SpeechBrain's log files take its place.
        patch.setattr(sys, "excepthook", sys.__excepthook__)
        patch.chdir(path.parent)
        with contextlib.redirect_stdout(printed), one_line_errors():
            load_script(path).main([str(hparams), *chosen.values()])
    return printed.getvalue()


def cached_features(folder):
    """Features of a run by the seed of their channel, None: as recorded."""
    found = {}
    for path in folder.glob("*/index.json"):
        index = json.loads(path.read_text())
        array = np.load(path.with_name("features.npy"))
        seed = index["channel"] and index["channel"]["seed"]
        ids = path.with_name("ids.jsonl").read_text().splitlines()
        found[seed] = PooledFeatures([array], [*map(json.loads, ids)])
    return found


def pick(rows, label, measure="eer", **wanted):
    """The one row of a measure of a subspace, as recorded."""
    system, _, subspace = label.partition(" ")
    wanted = {"condition": "recorded", "group": ""} | wanted
    wanted |= {"system": system, "subspace": subspace, "measure": measure}
    [row] = select(rows, **wanted)
    return row


def write_manifest(path, rows):
    """Write rows (dicts of equal keys) as a CSV manifest."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def voiced(speaker, content, take=0, seconds=0.4, rate=16000):
    """A buzz whose pitch is the speaker's and whose formants the content's."""
    rng = np.random.default_rng([speaker, content, take])
    time = np.arange(int(seconds * rate)) / rate
    wave = np.zeros_like(time)
    pitch = 90 + 23 * speaker
    for harmonic in range(1, int(4000 / pitch)):
        frequency = harmonic * pitch
        gain = sum(
            np.exp(-(((frequency - f) / 200) ** 2))
            for f in (300 + 90 * content, 1200 + 150 * content)
        )
        wave += (0.02 + gain) * np.sin(2 * np.pi * frequency * time)
    wave += 0.01 * rng.standard_normal(len(time))
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.fixture(scope="session")
def small_grid(tmp_path_factory):
    """A manifest of 8 speakers x 6 contents x 2 takes in three splits.

    One cell of the training part is missing.
    """
    folder = tmp_path_factory.mktemp("grid")
    (folder / "wav").mkdir()
    rows = []
    for speaker in range(8):
        split = "train" if speaker < 4 else "valid" if speaker < 6 else "test"
        for content in range(6):
            if (speaker, content) == (0, 0):
                continue
            for take in range(2):
                key = f"s{speaker}_c{content}_{take}"
                seconds = 0.3 + 0.05 * ((speaker + content + take) % 3)
                wave = voiced(speaker, content, take, seconds)
                soundfile.write(folder / f"wav/{key}.wav", wave, 16000)
                rows.append(
                    {
                        "ID": key,
                        "wav": f"wav/{key}.wav",
                        "duration": f"{seconds:.2f}",
                        "speaker": f"s{speaker}",
                        "content": f"c{content}",
                        "split": split,
                    }
                )
    write_manifest(folder / "manifest.csv", rows)
    return folder
