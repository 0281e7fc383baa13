#!/usr/bin/env python3
"""Experiments x encoders x layers x seeds, evaluated and put in one table.

To run this recipe:
> python run_experiments.py hparams/experiments.yaml --data_folder FOLDER \
>     [-- OPTIONS OF train.py]

A second call goes on where the first one stopped, and takes up new seeds,
layers, encoders or experiments. What stands after "--" goes to every training
as it is, so that all options of train.py and of SpeechBrain stay usable;
--train_options='{number_of_epochs: 100}' does not touch what an experiment
sets itself, as the baseline its 0 epochs.
"""

import os
import sys
from functools import lru_cache
from pathlib import Path

from option_table import ENCODER, EVALUATE, EXPERIMENTS, TRAIN
from train import dataio_prep

import speechbrain as sb
from speechbrain_ext.evaluation.summary import write_summary
from speechbrain_ext.lobes.encoders import choose_layers, load_encoder
from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import locked_folder
from speechbrain_ext.utils.hparams import (
    load_hparams,
    parse_arguments,
    plain_hparams,
)
from speechbrain_ext.utils.jobs import (
    plan_evaluations,
    plan_trainings,
    run_jobs,
)
from speechbrain_ext.utils.options import check_run_options

# What decides whether the blocks of a training fit.
OF_GRID = ("manifest", "data_folder", "columns", "split", "grid_factors")
OF_GRID += ("network_takes", "train_block", "valid_block")


def check_options(job, rules):
    """Refuse options that a job would refuse; returns them."""
    path, run_opts, overrides = parse_arguments(job.command[1:])
    check_run_options(run_opts)
    return plain_hparams(path, overrides, rules), run_opts


def check_trainings(jobs):
    """Refuse what a training would refuse, before the first one starts."""
    # Those of one encoder, and of one grid, come one after the other.
    load, grid = lru_cache(maxsize=1)(load_encoder), None
    for job in jobs:
        plain, run_opts = check_options(job, TRAIN)
        if job.done() is not None:
            continue
        try:
            if "encoder" in plain:
                encoder = load(*map(plain.get, ENCODER))
                choose_layers(encoder, plain["layers"])
            # Else it is still to be made.
            recorded = "prepare" not in plain or plain.get("skip_prep")
            of_grid = {key: plain[key] for key in OF_GRID}
            if recorded and of_grid != grid:
                dataio_prep(plain, run_opts)
                grid = of_grid
        except InputError as error:
            raise InputError(f"{job.folder}: {error}")


def main(arguments):
    """Train, evaluate, summarise; whatever is finished is left alone."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    hparams_file, run_opts, overrides = parse_arguments(arguments[:end])
    check_run_options(run_opts, trains=False)
    hparams = load_hparams(hparams_file, overrides, EXPERIMENTS)
    # Relative, so that finished runs stay known in another checkout.
    scripts = Path(os.path.relpath(Path(__file__).parent))
    folder = hparams["output_folder"]
    cells = plan_trainings(
        hparams["systems"],
        hparams["experiments"],
        hparams["encoders"],
        hparams["layers"],
        hparams["seeds"],
        hparams["sweep"],
        folder,
        scripts / "train.py",
        hparams["train_options"],
        arguments[end + 1 :],
    )
    evaluations = plan_evaluations(
        cells,
        hparams["evaluations"],
        scripts / "evaluate.py",
        hparams["evaluate_hparams"],
    )
    trainings = [job for jobs in cells.values() for job in jobs]
    check_trainings(trainings)
    for job in evaluations.values():
        check_options(job, EVALUATE)
    with locked_folder(folder):
        sb.create_experiment_directory(
            experiment_directory=folder,
            hyperparams_to_save=hparams_file,
            overrides=overrides,
        )
        run_jobs(trainings, hparams["devices"], description="trainings")
        run_jobs(
            list(evaluations.values()),
            hparams["devices"],
            renew=True,
            description="evaluations",
        )
        places = [(name, job.folder) for (name, _), job in evaluations.items()]
        print(write_summary(folder, places))
    print(f"{folder}/summary.md, results.csv and layers_*.png: the results")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
