#!/usr/bin/env python3
"""An encoder of your own: from a class to the comparison of two files.

Any torch module that makes vectors of a waveform can be the frozen encoder.
Here it is a model of the transformers library in a folder, wrapped by hand.

> python own_encoder.py
> python own_encoder.py --data FOLDER

FOLDER/manifest.csv has the columns ID, wav, speaker and content. Without it a
few voices of espeak-ng say the digits (pip install -e ".[demo]").

The main recipe takes the encoder by its file, too, and chooses layers itself:
> PYTHONPATH=. python ../post-training/train.py \
    ../post-training/hparams/interventional.yaml \
    --encoder results/own_encoder/own_encoder.yaml
"""

import argparse
from pathlib import Path

import torch
import transformers

from speechbrain_ext.augment.channel import RandomChannel
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.manifest import (
    factor_labels,
    load_manifest,
    write_manifest,
)
from speechbrain_ext.dataio.splits import split_manifest
from speechbrain_ext.evaluation.systems import (
    equal_error_thresholds,
    threshold_trials,
)
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.model_files import find_model
from speechbrain_ext.lobes.pooled_encoder import PooledEncoder
from speechbrain_ext.processing.closed_form import channel_lda
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer
from speechbrain_ext.synthesis.grid import grid_cells, render_cells
from speechbrain_ext.utils.files import write_text

DIGITS = "zero one two three four five six seven eight nine".split()
FACTORS = ["speaker", "content"]
LAYERS = [2, 4]
# How the encoder is made. A folder at the key source is copied into exports;
# this one comes with the package.
OPTIONS = """\
source: !apply:speechbrain_ext.models.packaged_model [mini]
encoder: !new:own_encoder.OwnEncoder
    source: !ref <source>
"""


class OwnEncoder(PooledEncoder):
    """Hidden states of a transformers model, each with its mean over time."""

    def __init__(self, source):
        # The digest of the model's files is part of the key of cached features.
        files = find_model(source)
        super().__init__(16000, parameters={}, model=files, min_samples=400)
        model = transformers.AutoModel.from_pretrained(files.folder)
        self.network = model.float()

    def encode(self, wavs, lengths):
        """Utterances of equal length [B, time] -> [B, layers, dim]."""
        wavs = wavs - wavs.mean(dim=1, keepdim=True)
        wavs = wavs / (wavs.std(dim=1, keepdim=True) + 1e-7)
        hidden = self.network(wavs, output_hidden_states=True).hidden_states
        return torch.stack([frames.mean(dim=1) for frames in hidden], dim=1)


def main(data, output):
    """From a grid to an export, and to decisions by it."""
    # 1. A grid: every speaker says every content
    if not (data / "manifest.csv").is_file():
        espeak = EspeakSynthesizer()
        cells = grid_cells(espeak.voices()[:20], {w: w for w in DIGITS})
        write_manifest(data / "manifest.csv", render_cells(espeak, cells, data))
    dataset = load_manifest(data / "manifest.csv", factors=FACTORS)
    splits = split_manifest(dataset, by="speaker")
    train, valid = splits["train"], splits["valid"]

    # 2. One vector per utterance and layer, as recorded and through a random
    # channel each; both are kept in files
    write_text(output / "own_encoder.yaml", OPTIONS)
    encoder = load_encoder(output / "own_encoder.yaml")
    cache, channel = output / "features", RandomChannel(1, encoder.sample_rate)
    recorded = extract_features(dataset, encoder, cache)
    changed = extract_features(dataset, encoder, cache, channel=channel)

    # 3. The head, and its thresholds on speakers that are new to it
    takes = [take.select(train, LAYERS) for take in (recorded, changed)]
    labels = factor_labels(dataset, train, FACTORS)
    head = channel_lda(torch.stack(takes), labels)
    pairs = threshold_trials(factor_labels(dataset, valid, FACTORS), FACTORS)
    heard = changed.select(valid, LAYERS)
    thresholds = equal_error_thresholds(head, heard, pairs)

    # 4. An export holds the encoder's YAML file and weights, but not its code:
    # who loads it needs own_encoder.py, and says that it may be run
    folder = output / "export"
    export_subspaces(folder, encoder, head, LAYERS, thresholds=thresholds)
    model = SubspaceEncoder.from_hparams(folder, trust=True)

    # 5. Compare a file of the test part with one that shares its speaker alone,
    # and with one that shares its content alone
    one, *others = (dataset.data[key] for key in splits["test"])
    for shared in FACTORS:
        wanted = [factor == shared for factor in FACTORS]
        other = next(
            row
            for row in others
            if [row[factor] == one[factor] for factor in FACTORS] == wanted
        )
        for factor in FACTORS:
            score, same = model.verify_files(one["wav"], other["wav"], factor)
            print(
                f"Two files of one {shared}, in the {factor} subspace: "
                f"{score.item():.2f}, the same: {same.item()}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default="data/digits")
    parser.add_argument("--output", type=Path, default="results/own_encoder")
    main(**vars(parser.parse_args()))
