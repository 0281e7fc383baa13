"""What several test modules build on."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from conftest import ROOT

from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.lobes.subspaces import SubspaceNetwork
from speechbrain_ext.synthesis.base import Voice

# 12 speakers who say 20 contents each.
SPEAKERS, CONTENTS = np.divmod(np.arange(12 * 20), 20)


def parts(dim=16):
    """A vector per speaker, one per content, and noise, [240, dim] each."""
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(12, dim))[SPEAKERS],
        rng.normal(size=(20, dim))[CONTENTS],
        rng.normal(size=(240, dim)),
    )


def read_table(table):
    """Lines of a Markdown table, without the rule below its heading."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    split = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
    return split[:1] + split[2:]


def two_processes(path, hparams, *options):
    """A recipe's script in two processes of torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc_per_node=2", path.name, hparams, *options],
        cwd=path.parent,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


class Tones:
    """A backend without dependencies, which can be made to fail."""

    settings = {"backend": "tones"}

    def __init__(self, broken="nothing"):
        self.broken = broken

    def voices(self):
        return [Voice(f"t{n}", f"v{n // 2}", "", 20 + n) for n in range(16)]

    def synthesize(self, text, voice):
        if text == self.broken:
            raise KeyboardInterrupt
        time = np.arange(len(text) * 100) / 8000
        return np.sin(time * (voice.pitch * 50 + len(text))), 8000


def contents(folder):
    """All files of a folder with their bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def check_grid(rows, disjoint, splits, n_levels=1):
    """Each split has its cells, once, and shares no value with another."""
    seen = {column: set() for column in disjoint}
    for split, (speakers, sentences) in splits.items():
        part = [row for row in rows if row["split"] == split]
        cells = {(r["speaker"], r["content"], r.get("rate")) for r in part}
        assert len(part) == len(cells) == speakers * sentences * n_levels
        assert len({row["speaker"] for row in part}) == speakers
        assert len({row["content"] for row in part}) == sentences
        for column in disjoint:
            values = {row[column] for row in part}
            assert not values & seen[column], column
            seen[column] |= values


SPEAKER_REC = ROOT / "recipes/VoxCeleb/SpeakerRec/hparams"
YAMLS = {
    "cosine": SPEAKER_REC / "verification_subspace.yaml",
    "plda": SPEAKER_REC / "verification_plda_subspace.yaml",
    "keywords": ROOT / "recipes/Google-speech-commands/hparams/subspace.yaml",
}

# For train_speaker_embeddings.py
TRAININGS = {
    "subspace": SPEAKER_REC / "train_subspace.yaml",
    "frames": SPEAKER_REC / "train_ecapa_frames.yaml",
}


def build_export(folder, encoder, layers=(-1,), standardise=True, seed=0):
    """An export with random weights, and statistics that are not trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape, widths = [len(layers), encoder.dim], {"speaker": 6, "content": 5}
        head = SubspaceNetwork(
            shape, list(widths), widths, hidden=[16], standardise=standardise
        )
        head.fit_statistics(encoder(torch.randn(8, 8000))[:, list(layers)])
    export_subspaces(folder, encoder, head, layers)
    return folder
