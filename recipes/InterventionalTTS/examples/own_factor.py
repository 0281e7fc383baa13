#!/usr/bin/env python3
"""A factor of your own: a grid and a head with a third factor.

A factor is a column of the table. Here it is the speaking rate: every voice
says every digit at three rates. Each factor gets a subspace, and a table is
printed of what each subspace tells.

> python own_factor.py
> python own_factor.py --data FOLDER --factor emotion

FOLDER/manifest.csv has the columns ID, wav, speaker, content and that of the
factor. Without it, espeak-ng speaks (pip install -e ".[demo]").
"""

import argparse
from pathlib import Path

import torch
from tabulate import tabulate

from speechbrain_ext.augment.channel import RandomChannel
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.manifest import (
    factor_labels,
    load_manifest,
    write_manifest,
)
from speechbrain_ext.dataio.splits import split_manifest
from speechbrain_ext.evaluation.systems import embed, threshold_trials
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.processing.closed_form import channel_lda
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer
from speechbrain_ext.synthesis.grid import grid_cells, render_cells

DIGITS = "one two three four".split()
RATES = [100, 175, 300]  # words per minute


def speak(folder, factor):
    """A grid of voices x digits x rates."""
    rows = []
    for rate in RATES:
        espeak = EspeakSynthesizer(rate)
        cells = grid_cells(
            espeak.voices()[:20], {word: word for word in DIGITS}
        )
        for row, _ in cells:
            row |= {"ID": f"{row['ID']}_{rate}", factor: rate}
            row["wav"] = f"{rate}/{row['wav']}"
        rows += render_cells(espeak, cells, folder)
    write_manifest(folder / "manifest.csv", rows)


def main(data, factor, output):
    """From a grid to a table of what each subspace tells."""
    # 1. A grid: one column per factor. Speakers are divided into parts
    if not (data / "manifest.csv").is_file():
        speak(data, factor)
    factors = ["speaker", "content", factor]
    dataset = load_manifest(data / "manifest.csv", factors=factors)
    splits = split_manifest(dataset, by="speaker")

    # 2. Features as recorded, and through a random channel each
    encoder = load_encoder("mini")
    cache, channel = output / "features", RandomChannel(1, encoder.sample_rate)
    recorded = extract_features(dataset, encoder, cache)
    changed = extract_features(dataset, encoder, cache, channel=channel)

    # 3. A head with one subspace per factor, of all layers
    takes = [take.select(splits["train"]) for take in (recorded, changed)]
    labels = factor_labels(dataset, splits["train"], factors)
    head = channel_lda(torch.stack(takes), labels)

    # 4. How well pairs that share a value are told from pairs that do not, on
    # new speakers: 0 is perfect, 50 % is chance
    labels = factor_labels(dataset, splits["test"], factors)
    pairs = threshold_trials(labels, factors)
    table = []
    for name, vectors in embed(head, recorded.select(splits["test"])).items():
        scores = [(pairs[f].score(vectors), pairs[f].label) for f in factors]
        rates = [100 * equal_error_rate(*scored)[0] for scored in scores]
        table.append([name, *rates])
    headings = ["subspace", *(f"EER % of {name}" for name in factors)]
    print(tabulate(table, headings, floatfmt=".1f"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default="data/rates")
    parser.add_argument("--factor", default="rate")
    parser.add_argument("--output", type=Path, default="results/own_factor")
    main(**vars(parser.parse_args()))
