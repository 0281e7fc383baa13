#!/usr/bin/env python3
"""A grid of your own recordings: from a folder of audio to the main recipe.

Recordings in which several speakers say the same things become a table, with
one row per recording and one column per factor. The recipe is trained on it.

> python own_grid.py
> python own_grid.py --data FOLDER

FOLDER has a sub-folder for each speaker, with <what is said>_<take>.wav in it.
Without it, voices of espeak-ng are recorded (pip install -e ".[demo]").
"""

import argparse
import subprocess
import sys
from pathlib import Path

from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer
from speechbrain_ext.synthesis.grid import grid_cells, render_cells
from speechbrain_ext.utils.files import write_csv

RECIPE = Path(__file__).resolve().parent.parent / "post-training"
DIGITS = "zero one two three four five six seven eight nine".split()


def record(folder):
    """Voices of espeak-ng say the digits, in place of your speakers."""
    espeak = EspeakSynthesizer()
    cells = grid_cells(espeak.voices()[:20], {word: word for word in DIGITS})
    for row, _ in cells:
        row["wav"] = f"{row['speaker']}/{row['content']}_1.wav"
    render_cells(espeak, cells, folder)


def main(data, output):
    """From a folder of audio to a report and an export."""
    if not data.is_dir():
        record(data)

    # 1. The table. Its headings may be yours: the option columns maps them.
    # Several takes of a cell and missing cells are fine.
    paths = sorted(data.glob("*/*_*.wav"))
    if not paths:
        sys.exit(f"{data} has no file <speaker>/<what is said>_<take>.wav")
    rows = [
        {
            "ID": f"{path.parent.name}_{path.stem}",
            "wav": path.relative_to(data),
            "person": path.parent.name,
            "word": path.stem.rpartition("_")[0],
        }
        for path in paths
    ]
    write_csv(output / "manifest.csv", rows)
    print(f"{output}/manifest.csv: {len(rows)} recordings")

    # 2. The recipe divides the speakers into training, validation and test,
    # encodes, chooses layers, fits the heads, evaluates and exports them. A
    # block of the network has at most the speakers and words of the training.
    command = [sys.executable, RECIPE / "train.py"]
    command += [RECIPE / "hparams/recorded_grid.yaml"]
    command += [f"--manifest={output}/manifest.csv", f"--data_folder={data}"]
    command += ["--columns={speaker: person, content: word}"]
    command += ["--train_block={speaker: 6, content: 5}"]
    command += ["--number_of_epochs=10"]
    command += [f"--output_folder={output}", f"--cache_folder={output}/cache"]
    subprocess.run(command, check=True)

    # 3. The export is used as any other
    model = SubspaceEncoder.from_hparams(output / "export")
    vector = model.encode_file(data / rows[0]["wav"], subspace="content")
    print(f"content of {rows[0]['ID']}: {vector.shape[-1]} numbers")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default="data/recordings")
    parser.add_argument("--output", type=Path, default="results/own_grid")
    main(**vars(parser.parse_args()))
