#!/usr/bin/env python3
"""Pre-training of a mini encoder in wav2vec 2.0 format, without labels.

A small student learns, through random channels, the hidden states of a
Moonshine teacher, and from synthetic speech, whose speakers and words are
known, to tell those apart (see tasks.py). It runs on two CPU cores.

To run this recipe:
> python train.py hparams/train.yaml --teacher_source FOLDER_OR_HUB_ID \
      --recordings='[{folder: FOLDER, split: train, repeat: 3}]'

A run that was interrupted goes on where it stopped when it is called again.
The model is in <output_folder>/model.
"""

import copy
import functools
import itertools
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import transformers
from clips import Clips
from tasks import padding_mask

import speechbrain as sb
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_ext.utils.errors import one_line_errors
from speechbrain_ext.utils.files import (
    claim_folder,
    file_digest,
    locked_folder,
    write_text,
)
from speechbrain_ext.utils.hparams import (
    describe,
    load_hparams,
    parse_arguments,
    save_hparams,
)
from speechbrain_ext.utils.options import (
    check_run_options,
    flag,
    folder,
    list_of,
    number,
    optional,
    text,
    whole,
)

logger = get_logger(__name__)

# Beside the data: what makes a training another one.
SETTINGS = (
    *("seed", "valid_share", "batch_seconds", "teacher_layers"),
    *("copied_layers", "max_lr", "warmup_steps", "max_grad_norm"),
)


RULES = {
    "seed": whole(0),
    "output_folder": folder(),
    "save_folder": folder(),
    "teacher_source": text(),
    "skip_prep": flag(),
    "n_speakers": whole(2),
    "n_sentences": whole(1),
    "n_words": whole(1),
    "n_vocabulary": lambda options: whole(options["n_words"]),
    "crops.max_seconds": number(above=0.1),
    "crops.channel_share": number(0, 1),
    "valid_share": number(above=0, most=0.9),
    "batch_seconds": number(above=0),
    "teacher_layers": list_of(whole(0)),
    "copied_layers": list_of(whole(0)),
    "number_of_epochs": whole(1),
    "max_steps": optional(whole(1)),
    "max_lr": number(above=0),
    "warmup_steps": whole(1),
    "decay_share": number(above=0, most=1),
    "max_grad_norm": number(above=0),
}


class MiniBrain(sb.Brain):
    """Trains the student on all tasks.

    Needs in ``modules``: ``student`` and ``tasks``; in ``hparams``:
    ``max_lr``, ``warmup_steps``, ``decay_share``, ``number_of_epochs``,
    ``max_steps`` (None: all epochs are run) and ``train_logger``. The crops
    of the training are its attribute ``crops``, their batches
    ``train_sampler``.
    """

    def compute_forward(self, batch, stage):
        """Hidden states of the student, a list of [B, frames, dim]."""
        wavs, mask = normalise(*batch.to(self.device).wav)
        return self.modules.student(
            wavs, attention_mask=mask, output_hidden_states=True
        ).hidden_states

    def compute_objectives(self, predictions, batch, stage):
        """The loss of all tasks; keeps its parts for the log."""
        loss, parts = self.modules.tasks(predictions, batch)
        for name, value in parts.items():
            self.parts.setdefault(name, []).append(value)
        return loss

    def init_optimizers(self):
        """The optimiser, and its rate: warm-up, constant, linear decay."""
        super().init_optimizers()
        total = len(self.train_sampler) * self.hparams.number_of_epochs
        if self.optimizer_step_limit is not None:
            total = min(total, self.optimizer_step_limit)
        decay = self.hparams.decay_share * total

        def rate(step):
            """Of the highest learning rate."""
            left = (total - step) / decay
            return min((step + 1) / self.hparams.warmup_steps, 1, max(left, 0))

        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)
        self.checkpointer.add_recoverable("scheduler", self.scheduler)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """The learning rate follows its schedule step by step."""
        if should_step:
            self.scheduler.step()

    def on_stage_start(self, stage, epoch=None):
        """Start the means of a stage, and draw new crops."""
        self.parts = {}
        if stage == sb.Stage.TRAIN:
            self.crops.epoch = epoch

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log; after validation, checkpoint."""
        stats = {"loss": stage_loss} | {
            name: float(np.mean(values)) for name, values in self.parts.items()
        }
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]},
            train_stats=self.train_stats,
            valid_stats=stats,
        )
        self.checkpointer.save_and_keep_only(
            meta={"loss": stats["loss"]}, num_to_keep=2
        )


def normalise(wavs, lengths):
    """Zero mean and unit variance of each clip, over its own samples.

    Arguments
    ---------
    wavs : torch.Tensor
        [B, time], padded at the end.
    lengths : torch.Tensor
        Relative, [B].

    Returns
    -------
    wavs : torch.Tensor
        [B, time], zero after the end of each.
    mask : torch.Tensor
        1 for samples of the clip, 0 for padding.
    """
    mask = padding_mask(lengths, wavs.shape[1])
    lengths = mask.sum(1)
    mean = (wavs * mask).sum(1) / lengths
    centred = (wavs - mean[:, None]) * mask
    variance = centred.square().sum(1) / lengths
    return centred / torch.sqrt(variance + 1e-7)[:, None], mask.long()


def dataio_prep(hparams):
    """Clips, and crops of them with the teacher's frames and voices.

    Arguments
    ---------
    hparams : dict
        Of hparams/train.yaml.

    Returns
    -------
    clips : Clips
        All of them.
    crops : dict
        ``train`` and ``valid`` -> Crops of disjoint clips.
    """
    clips = Clips(hparams["data_folder"], hparams["recordings"])
    hours = clips.lengths.sum() / 16000 / 3600
    logger.info(f"{len(clips)} clips, {hours:.2f} hours")
    targets = hparams["teacher"].targets(clips, hparams["target_folder"])
    voices = hparams["voice"].fit(clips, hparams["target_folder"])
    order = np.random.default_rng(hparams["seed"]).permutation(len(clips))
    count = max(2, round(hparams["valid_share"] * len(clips)))
    train, valid = order[count:], order[:count]
    make = functools.partial(hparams["crops"], clips, targets, voices)
    return clips, {
        "train": make(numbers=np.repeat(train, clips.repeats[train])),
        "valid": make(numbers=valid),
    }


def claim(hparams, clips):
    """A folder holds one run: its checkpoints must not be taken for another."""
    settings = {key: hparams[key] for key in SETTINGS} | {
        "clips": clips.digest,
        "student": hparams["student"].config.to_diff_dict(),
        "repeats": [one.get("repeat", 1) for one in hparams["recordings"]],
        "teacher": hparams["teacher"].identity,
        "crops": describe(hparams["crops"]),
        "optimiser": describe(hparams["opt_class"]),
        "tasks": hparams["tasks"].keywords,
        "voice": hparams["voice"].config,
    }
    claim_folder(hparams["save_folder"], settings)


def make_tasks(hparams, clips, targets):
    """The tasks, with the statistics of the teacher's frames."""
    tasks = hparams["tasks"](
        voice=hparams["voice"],
        n_speakers=clips.speakers.max() + 1,
        n_words=clips.words.max() + 1,
    )
    every = max(1, len(targets) // 20_000)
    means = [
        targets[start:stop].mean(axis=0, dtype=np.float32)
        for start, stop in itertools.pairwise(clips.frame_starts)
    ]
    tasks.distil.fit_statistics(
        torch.from_numpy(np.array(targets[::every])),
        torch.from_numpy(np.stack(means)),
    )
    return tasks


def write_model(student, folder):
    """The student as a Hugging Face folder in half precision.

    Arguments
    ---------
    student : transformers.Wav2Vec2Model
        The trained student.
    folder : str or Path
        Gets config.json, preprocessor_config.json, model.safetensors and
        SHA256SUMS.
    """
    folder = Path(folder)
    copy.deepcopy(student).half().save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=True
    ).save_pretrained(folder)
    names = ("config.json", "model.safetensors", "preprocessor_config.json")
    sums = [
        f"{file_digest(folder / name, 'sha256')}  {name}\n" for name in names
    ]
    write_text(folder / "SHA256SUMS", "".join(sums))


def run(hparams, run_opts, save_options):
    """Synthesise, teach, train, write the model."""
    # Synthetic speech
    if not hparams["skip_prep"]:
        run_on_main(hparams["prepare"])

    # Crops with the teacher's frames
    clips, crops = dataio_prep(hparams)
    run_on_main(claim, args=[hparams, clips])
    run_on_main(save_options)

    # Tasks, and a student that starts from the teacher
    tasks = make_tasks(hparams, clips, crops["train"].targets)
    student, distil = hparams["student"], tasks.distil
    hparams["teacher"].initialise(student, distil.mean[0], distil.std[0])

    # Brain
    hparams["checkpointer"].add_recoverable("tasks", tasks)
    brain = MiniBrain(
        modules=hparams["modules"] | {"tasks": tasks},
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )

    # Training
    seconds = hparams["batch_seconds"]
    loading = crops["train"].loading(seconds, shuffle=True)
    # Nobody else tells the batches of a single process the epoch.
    brain.crops, brain.train_sampler = crops["train"], loading["batch_sampler"]
    brain.fit(
        hparams["epoch_counter"],
        crops["train"],
        crops["valid"],
        train_loader_kwargs=loading,
        valid_loader_kwargs=crops["valid"].loading(seconds),
    )

    # Model
    run_on_main(write_model, args=[student, hparams["model_folder"]])
    logger.info(f"The model is in {hparams['model_folder']}")
    if run_opts.debug:
        smaller = hparams["smoke_run"]
        logger.warning(f"Smoke run with {smaller}: the model means nothing")


def main(arguments):
    """The whole job, in a folder that no other run is using."""
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    check_run_options(run_opts)
    sb.utils.distributed.ddp_init_group(run_opts)
    debug = "." if run_opts.debug_persistently else "debug"
    hparams = load_hparams(
        hparams_file, overrides, RULES, debug if run_opts.debug else None
    )
    folder = hparams["output_folder"]
    with locked_folder(folder) if if_main_process() else nullcontext():
        # The options are saved when the folder is known to be this run's.
        sb.create_experiment_directory(folder)
        save_options = functools.partial(
            save_hparams, folder, hparams_file, overrides
        )
        run(hparams, run_opts, save_options)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
