#!/usr/bin/env python3
"""The speaker subspace in speaker verification as SpeechBrain does it.

An export is a folder that SpeechBrain's own classes load, and that an option
file hands to its unchanged scripts. Both are shown on the same trials, which
are scored with SpeechBrain's metrics.

> python plug_into_sv_recipe.py
> python plug_into_sv_recipe.py --data FOLDER --export EXPORT

FOLDER has a sub-folder of audio at 16 kHz for each speaker. Without it, voices
of espeak-ng speak (pip install -e ".[demo]"). EXPORT is what a run left in
<output_folder>/export; without it, the one in this package is taken.

How the scripts themselves are called, also with PLDA, and for trainings on top
of a subspace: recipes/VoxCeleb/SpeakerRec/README_subspaces.md.
"""

import argparse
from itertools import combinations
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain.inference import SpeakerRecognition
from speechbrain.utils.metric_stats import EER, minDCF
from speechbrain_ext.dataio.manifest import find_recordings
from speechbrain_ext.models import packaged_model
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer
from speechbrain_ext.synthesis.grid import grid_cells, render_cells
from speechbrain_ext.synthesis.sentences import generate_sentences

RECIPES = Path(__file__).resolve().parents[2]
OPTIONS = "VoxCeleb/SpeakerRec/hparams/verification_subspace.yaml"


def speak(folder):
    """Some voices say some sentences, in place of your speakers."""
    espeak, texts = EspeakSynthesizer(), generate_sentences(4)
    cells = grid_cells(espeak.voices()[:12], dict(zip("abcd", texts)))
    render_cells(espeak, cells, folder)


def main(data, export):
    """Two ways to the same vectors, and their error rate."""
    if not data.is_dir():
        speak(data)
    recordings = find_recordings(data).data  # speaker/file -> where it is
    paths = [row["wav"] for row in recordings.values()]

    # 1. SpeechBrain's class for verification. Its verify_files decides by 0.25,
    # which suits ECAPA-TDNN; the export knows a threshold of its own
    model = SpeakerRecognition.from_hparams(source=export)
    score, _ = model.verify_files(*paths[:2])
    threshold = model.hparams.thresholds["speaker"]
    a, b, *_ = recordings
    print(f"{a} and {b}: score {score.item():.2f}")
    print(f"the same speaker: {score.item() > threshold}")

    # 2. Its vectors, as of any EncoderClassifier
    wavs = [model.load_audio(path)[None] for path in paths]
    vectors = torch.cat([model.encode_batch(wav)[:, 0] for wav in wavs])

    # 3. What speaker_verification_cosine.py does: it takes three modules from
    # its option file, and calls one after the other
    with open(RECIPES / OPTIONS, encoding="utf-8") as file:
        given = {"data_folder": str(data), "export_folder": export}
        params = load_hyperpyyaml(file, given)
    lens, found = torch.ones(1), []
    for wav in wavs:
        features = params["compute_features"](wav)
        features = params["mean_var_norm"](features, lens)
        found.append(params["embedding_model"](features, lens)[:, 0])
    difference = (torch.cat(found) - vectors).abs().max()
    print(f"difference to the option file for the script: {difference:.1e}")

    # 4. All pairs of files, and SpeechBrain's error rates
    one, other = torch.tensor(list(combinations(range(len(paths)), 2))).T
    speakers = [name.split("/")[0] for name in recordings]
    same = torch.tensor(
        [speakers[a] == speakers[b] for a, b in zip(one, other)]
    )
    scores = torch.cosine_similarity(vectors[one], vectors[other])
    eer, _ = EER(scores[same], scores[~same])
    cost, _ = minDCF(scores[same], scores[~same])
    print(f"{len(scores)} trials: EER {100 * eer:.1f} %, minDCF {cost:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default="data/speakers")
    parser.add_argument("--export", default=packaged_model("mini_subspaces"))
    main(**vars(parser.parse_args()))
