import csv
import importlib.util
import os
import pathlib
import subprocess
import sys
import types

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/LibriTTS/post-training"
SIZES = {
    "train": ["test-clean", 2, 4],
    "valid": ["test-clean", 2, 3],
    "test": ["dev-clean", 2, 2],
}


@pytest.fixture
def libritts(tmp_path):
    """Subsets of speakers who read six sentences each, in noise."""
    from speechbrain.dataio import audio_io

    generator = torch.Generator().manual_seed(0)
    root = tmp_path / "LibriTTS"
    for first, subset, speakers in ((1, "dev-clean", 2), (3, "test-clean", 4)):
        for speaker in range(first, first + speakers):
            folder = root / subset / f"{speaker}/7{speaker}"
            folder.mkdir(parents=True)
            for number in range(6):
                stem = folder / f"{speaker}_7{speaker}_000000_{number:06}"
                sig = torch.randn(1, 12000, generator=generator) / 10
                audio_io.save(f"{stem}.wav", sig, 4000)
                pathlib.Path(f"{stem}.normalized.txt").write_text(
                    f"This is sentence {number} of reader {speaker}.",
                    encoding="utf-8",
                )
    return root


@pytest.fixture
def synthesized(monkeypatch):
    """A stand-in for F5-TTS, and the texts that it said."""
    texts = []

    class F5TTS:
        def __init__(self, model="F5TTS_v1_Base"):
            self.model = model

        def infer(
            self, ref_file, ref_text, gen_text, show_info, progress, seed
        ):
            assert ref_text == pathlib.Path(
                ref_file.replace(".wav", ".normalized.txt")
            ).read_text(encoding="utf-8")
            assert ref_text != gen_text
            texts.append(gen_text)
            generator = torch.Generator().manual_seed(seed)
            return torch.randn(9600, generator=generator).numpy(), 24000, None

    api = types.ModuleType("f5_tts.api")
    api.F5TTS = F5TTS
    monkeypatch.setitem(sys.modules, "f5_tts", types.ModuleType("f5_tts"))
    monkeypatch.setitem(sys.modules, "f5_tts.api", api)
    return texts


def prepare(libritts, grid_folder, **changes):
    """Calls the preparation; returns the rows of each split."""
    path = RECIPE / "libritts_grid_prepare.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sizes = {**SIZES, **changes}
    paths = {split: f"{grid_folder}/{split}.csv" for split in sizes}
    module.prepare_libritts_grid(str(libritts), str(grid_folder), sizes, paths)
    rows = {}
    for split, path in paths.items():
        with open(path, newline="", encoding="utf-8") as file:
            rows[split] = list(csv.DictReader(file))
    return rows


def test_grid_is_synthesized_once(libritts, synthesized, tmp_path):
    from speechbrain.dataio import audio_io

    grid_folder = tmp_path / "grid"
    rows = prepare(libritts, grid_folder)
    assert len(synthesized) == 2 * 4 + 2 * 3 + 2 * 2
    for factor in ("speaker", "content"):
        values = [{row[factor] for row in split} for split in rows.values()]
        assert len(set.union(*values)) == sum(map(len, values))
    for split, (_, n_speakers, n_sentences) in SIZES.items():
        cells = {(row["speaker"], row["content"]) for row in rows[split]}
        assert len(cells) == len(rows[split]) == n_speakers * n_sentences
        assert len({row["speaker"] for row in rows[split]}) == n_speakers

    # A clip that is missing is made again, the same
    row = rows["valid"][3]
    path = row["wav"].replace("$data_root", str(grid_folder))
    sig, rate = audio_io.load(path)
    assert rate == 16000 and sig.shape[1] / rate == float(row["duration"])
    os.remove(path)
    synthesized.clear()
    assert prepare(libritts, grid_folder) == rows
    assert synthesized == [row["text"]]
    assert audio_io.load(path)[0].equal(sig)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"valid": ["test-clean", 3, 3]}, "3 speakers of valid.*but 2 are"),
        ({"test": ["dev-clean", 2, 13]}, "13 sentences of test.*but 12 are"),
        ({"test": ["dev", 2, 2]}, "dev has no <speaker>/<chapter>/<ID>.wav"),
    ],
)
def test_grid_that_cannot_be(libritts, synthesized, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        prepare(libritts, tmp_path / "grid", **changes)
    assert not synthesized


def test_training(libritts, synthesized, tmp_path, device):
    from speechbrain.lobes.models.log_mel_statistics import LogMelStatistics
    from speechbrain.lobes.models.subspaces import (
        SubspaceEmbedding,
        SubspaceNetwork,
    )

    grid_folder, output = tmp_path / "grid", tmp_path / "output"
    prepare(libritts, grid_folder)

    def train(*options):
        command = [
            sys.executable,
            "train.py",
            "hparams/log_mel.yaml",
            f"--data_folder={libritts}",
            f"--grid_folder={grid_folder}",
            "--skip_prep=True",
            f"--output_folder={output}",
            "--train_block={speaker: 2, content: 2}",
            "--valid_block={speaker: 2, content: 3}",
            "--dataloader_opts={num_workers: 0}",
            f"--device={device}",
        ]
        return subprocess.run(
            [*command, *options],
            cwd=RECIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    # In debug mode it stops after the second epoch.
    done = train("--number_of_epochs=3", "--debug", "--debug_persistently")
    assert done.returncode == 0, done.stdout
    lines = (output / "train_log.txt").read_text().splitlines()
    names = [line.split(" - ")[0] for line in lines[-3:]]
    assert names == ["vectors: pooled", "vectors: speaker", "vectors: content"]
    assert all("test content EER%" in line for line in lines[-3:])
    shape, widths = [1, 560], {"speaker": 384, "content": 384}
    network = SubspaceNetwork(shape, ["speaker", "content"], widths)
    model = SubspaceEmbedding(LogMelStatistics(), network, [0])
    model.load(output / "save/embedding_model.ckpt")

    # It goes on where it was, from the features that are there; those of
    # another encoder are not taken, nor weights with other slices.
    made = (output / "save/train_features.pt").stat().st_mtime_ns
    done = train("--number_of_epochs=3")
    assert done.returncode == 0, done.stdout
    assert "epoch: 3" in (output / "train_log.txt").read_text()
    assert (output / "save/train_features.pt").stat().st_mtime_ns == made
    for other in ("--n_mels=40", "--factors=[content, speaker]"):
        done = train("--number_of_epochs=3", other)
        assert done.returncode and "is of another encoder" in done.stdout
