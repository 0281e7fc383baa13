#!/usr/bin/env python3
"""What every layer of some encoders knows of keywords and speakers.

Measured on real recordings, of the pooled features as they are and after
post-training with the recommended head on the default synthetic grid.

To run this recipe:
> python evaluate.py hparams/evaluate.yaml \
      --keywords='{arabic: FOLDER}' --speakers='{ocean: FOLDER}' \
      --encoders='{mini: {name: mini}, log_mel: {name: log_mel}}'

Writes results.json and report.txt into the output folder.
"""

import sys
import time

import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.manifest import (
    check_audio,
    factor_labels,
    in_split,
    load_manifest,
    read_audio,
    subset,
)
from speechbrain_ext.evaluation.probes import linear_probe
from speechbrain_ext.evaluation.report import (
    align_columns,
    format_number,
    write_json,
)
from speechbrain_ext.evaluation.systems import adapted
from speechbrain_ext.evaluation.verification import (
    equal_error_rate,
    generate_trials,
)
from speechbrain_ext.lobes.encoders import load_encoder, suit_head
from speechbrain_ext.lobes.subspaces import FeatureStandardiser
from speechbrain_ext.utils.errors import one_line_errors
from speechbrain_ext.utils.files import replacing
from speechbrain_ext.utils.hparams import load_hparams

logger = get_logger(__name__)

FACTORS = ["speaker", "content"]


class Recordings:
    """A set of recordings with its labels.

    Arguments
    ---------
    label : str
        Its name.
    folder : str or Path
        With a manifest.csv.
    min_clips : int or None
        Of a word that is a keyword; None if this is no keyword set.
    unheard_splits : list of str
        Splits whose accuracy is given by itself.
    """

    def __init__(self, label, folder, min_clips=None, unheard_splits=()):
        factors = ["speaker"] + ["content"] * (min_clips is not None)
        dataset = load_manifest(f"{folder}/manifest.csv", folder, factors)
        rows = dataset.data
        if min_clips is not None:
            words, counts = np.unique(
                [row["content"] for row in rows.values()], return_counts=True
            )
            frequent = set(words[counts >= min_clips])
            ids = [key for key in rows if rows[key]["content"] in frequent]
            dataset = subset(dataset, ids)
        check_audio(dataset)
        self.label, self.dataset = label, dataset
        rows = list(dataset.data.values())
        self.speakers = [row["speaker"] for row in rows]
        # What is said, where it is known: of sentences often as text.
        said = "content" if "content" in rows[0] else "text"
        self.contents = [
            row.get(said, key) for key, row in dataset.data.items()
        ]
        self.unheard = np.array(
            [row.get("split") in unheard_splits for row in rows]
        )

    def features(self, hparams, label, encoder, channel=None):
        """Pooled features, [N, layers, dim]."""
        condition = "clean" if channel is None else "shifted"
        pooled = extract_features(
            self.dataset,
            encoder,
            hparams["cache_folder"],
            name=f"{label}-{self.label}-{condition}",
            channel=channel,
            **hparams["extraction"],
        )
        return torch.from_numpy(np.array(pooled.array, dtype=np.float32))


def standardised(features):
    """Features of one layer with their own statistics, [N, dim]."""
    shape = features.shape[1:]
    return FeatureStandardiser(shape).fit(features)(features).flatten(1)


def post_trained(network, features):
    """Subspaces, with the statistics of the features themselves."""
    with torch.no_grad():
        return adapted(network, features)(features)


def keyword_accuracy(vectors, recordings, folds):
    """Accuracies of a linear probe on speakers that it has not seen."""
    correct = linear_probe(
        vectors, recordings.contents, recordings.speakers, folds
    )["correct"]
    words = np.asarray(recordings.contents)
    by_word = [correct[words == word].mean() for word in np.unique(words)]
    measures = {
        "accuracy": float(correct.mean()),
        "balanced": float(np.mean(by_word)),
    }
    if recordings.unheard.any():
        measures["unheard"] = float(correct[recordings.unheard].mean())
    return measures


def speaker_error(vectors, trials):
    """Equal error rate of the cosine."""
    return equal_error_rate(trials.score(vectors), trials.label)[0]


def load_grid(hparams):
    """The training part of the grid."""
    hparams["prepare"]()
    folder = hparams["data_folder"]
    dataset = load_manifest(f"{folder}/manifest.csv", folder, FACTORS)
    part = subset(dataset, in_split(dataset, "train"))
    check_audio(part)
    return part


def fit_heads(hparams, label, encoder, grid):
    """The recommended head on each layer."""
    takes = []
    for take in range(1 + hparams["augmented_takes"]):
        channel = hparams["channel"](
            seed=hparams["channel_seed"] + take,
            sample_rate=encoder.sample_rate,
        )
        pooled = extract_features(
            grid,
            encoder,
            hparams["cache_folder"],
            name=f"{label}-grid-{take}",
            channel=channel if take else None,
            **hparams["extraction"],
        )
        takes.append(pooled.select(list(grid.data)))
    takes = torch.stack(takes)
    labels = factor_labels(grid, list(grid.data), FACTORS)
    head = suit_head(encoder, hparams["head"])
    return [
        head(takes[:, :, layer : layer + 1], labels)
        for layer in range(encoder.n_layers)
    ]


def measure_encoder(hparams, label, encoder, sets, grid):
    """All measures of an encoder, a dictionary a layer."""
    layers = [{} for _ in range(encoder.n_layers)]
    networks = fit_heads(hparams, label, encoder, grid)
    channel = hparams["channel"](
        seed=hparams["channel_seed"], sample_rate=encoder.sample_rate
    )
    folds = hparams["probe_folds"]
    for one in sets["keywords"]:
        features = one.features(hparams, label, encoder)
        for layer, measures in enumerate(layers):
            pooled = features[:, layer : layer + 1]
            content = post_trained(networks[layer], pooled)["content"]
            measures[one.label] = {
                "pooled": keyword_accuracy(pooled.flatten(1), one, folds),
                "post-trained": keyword_accuracy(content, one, folds),
            }
    for one in sets["speakers"]:
        trials = generate_trials(
            one.speakers,
            one.contents,
            max_targets=hparams["max_trials"],
            max_nontargets=hparams["max_trials"],
            seed=hparams["seed"],
        )
        for condition in ("clean", "shifted"):
            through = channel if condition == "shifted" else None
            features = one.features(hparams, label, encoder, through)
            for layer, measures in enumerate(layers):
                pooled = features[:, layer : layer + 1]
                speaker = post_trained(networks[layer], pooled)["speaker"]
                measures.setdefault(one.label, {})[condition] = {
                    "pooled": speaker_error(standardised(pooled), trials),
                    "post-trained": speaker_error(speaker, trials),
                }
    return layers


def measure_size(encoder, recordings, seconds=120.0):
    """Parameters, their bytes in half precision, and speed."""
    count = sum(parameter.numel() for parameter in encoder.parameters())
    wavs, total = [], 0.0
    for key, row in recordings.dataset.data.items():
        wavs.append(read_audio(key, row["wav"]))
        total += len(wavs[-1]) / 16000
        if total > seconds:
            break
    wavs.sort(key=len)
    pad = torch.nn.utils.rnn.pad_sequence
    batches = []
    for first in range(0, len(wavs), 16):
        part = wavs[first : first + 16]
        lengths = torch.tensor([len(wav) for wav in part])
        batches.append((pad(part, True), lengths / lengths.max()))
    encoder(*batches[0])  # the first call is slower
    began = time.perf_counter()
    for batch in batches:
        encoder(*batch)
    taken = time.perf_counter() - began
    return {
        "parameters": count,
        "megabytes": 2 * count / 1e6,
        "times_real_time": total / taken,
        "threads": torch.get_num_threads(),
    }


def set_columns(measures):
    """Heading -> keys of each measure of a set of recordings."""
    kinds = ("pooled", "post-trained")
    if "clean" in measures:
        return {
            f"EER % {condition}, {kind}": (condition, kind)
            for condition in ("clean", "shifted")
            for kind in kinds
        }
    return {
        f"{which} %, {kind}": (kind, which)
        for kind in kinds
        for which in measures[kind]
    }


def format_table(results):
    """A table a set of recordings, with a row a layer of an encoder."""
    parts = []
    for name in next(iter(results.values()))["layers"][0]:
        rows = []
        for label, result in results.items():
            for number, layer in enumerate(result["layers"]):
                columns = set_columns(layer[name])
                values = [layer[name][a][b] for a, b in columns.values()]
                numbers = [format_number(value, 100, 1) for value in values]
                rows.append([label, str(number), *numbers])
        table = align_columns(rows, ["encoder", "layer", *columns])
        parts.append(f"{name}\n\n{table}")
    rows = []
    for label, result in results.items():
        size = result["size"]
        rows.append(
            [
                label,
                f"{size['parameters'] / 1e6:.2f}",
                f"{size['megabytes']:.1f}",
                f"{size['times_real_time']:.0f}",
                str(size["threads"]),
            ]
        )
    header = ["encoder", "M parameters", "MB (float16)", "x real time"]
    parts.append(align_columns(rows, [*header, "threads"], left=1))
    return "\n\n".join(parts)


def main(arguments):
    """Load the recordings, measure the encoders, report."""
    hparams_file, _, overrides = sb.parse_arguments(arguments)
    hparams = load_hparams(hparams_file, overrides)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    sets = {
        "keywords": [
            Recordings(
                label, folder, hparams["min_clips"], hparams["unheard_splits"]
            )
            for label, folder in hparams["keywords"].items()
        ],
        "speakers": [
            Recordings(label, folder)
            for label, folder in hparams["speakers"].items()
        ],
    }
    grid = load_grid(hparams)
    results = {}
    chosen = {k: v for k, v in hparams["encoders"].items() if v is not None}
    for label, options in chosen.items():
        encoder = load_encoder(**options)
        every = sets["speakers"] + sets["keywords"]
        results[label] = {
            "identity": encoder.identity,
            "head": suit_head(encoder, hparams["head"]).keywords,
            "size": measure_size(encoder, every[0]),
            "layers": measure_encoder(hparams, label, encoder, sets, grid),
        }
    write_json(f"{hparams['output_folder']}/results.json", results)
    text = format_table(results)
    with replacing(f"{hparams['output_folder']}/report.txt") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
