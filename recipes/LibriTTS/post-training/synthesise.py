#!/usr/bin/env python3
"""The interventional grid of the published set-up: LibriTTS by F5-TTS.

To run this recipe:
> python synthesise.py hparams/synthesis.yaml --libritts_folder FOLDER
> torchrun --nproc_per_node=4 synthesise.py hparams/synthesis.yaml \
>     --libritts_folder FOLDER

The second form renders on four GPUs. For the jobs of a cluster, say
--shard='[0, 4]' to --shard='[3, 4]' in four single calls. An interrupted call
goes on where it stopped; the last one writes the manifest.
"""

import logging
import os
import sys

import torch

from speechbrain_ext.utils.errors import one_line_errors
from speechbrain_ext.utils.hparams import load_hparams, parse_arguments
from speechbrain_ext.utils.options import (
    check_run_options,
    list_of,
    number,
    optional,
    whole,
)
from speechbrain_ext.utils.shards import SHARD, share_of_process

SIZES = [
    f"n_{split}_{what}"
    for split in ("train", "valid", "test")
    for what in ("speakers", "sentences")
]
RULES = dict.fromkeys(SIZES, whole(0)) | {
    "reference_seconds": list_of(number(above=0), 2),
    "sentence_words": list_of(whole(1), 2),
    "references_per_speaker": optional(whole(1)),
    "grid_seed": whole(0),
    "shard": SHARD,
    "backend.nfe_step": whole(1),
}


def main(arguments):
    """Render this process's share of the grid."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    check_run_options(run_opts, trains=False)
    hparams = load_hparams(hparams_file, overrides, RULES)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    # The processes of one call share that call's part.
    hparams["prepare"](
        backend=hparams["backend"](), shard=share_of_process(hparams["shard"])
    )


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
