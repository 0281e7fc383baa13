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
from pathlib import Path

from option_table import EVALUATE, EXPERIMENTS, TRAIN

import speechbrain as sb
from speechbrain_ext.evaluation.summary import write_summary
from speechbrain_ext.utils.errors import one_line_errors
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


def check(jobs, rules):
    """Refuse options that a job would refuse, before the first one starts."""
    for job in jobs:
        path, _, overrides = parse_arguments(job.command[1:])
        plain_hparams(path, overrides, rules)


def main(arguments):
    """Train, evaluate, summarise; whatever is finished is left alone."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    hparams_file, _, overrides = parse_arguments(arguments[:end])
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
    check(trainings, TRAIN)
    check(evaluations.values(), EVALUATE)
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
