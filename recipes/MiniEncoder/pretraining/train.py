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
import hashlib
import itertools
import sys
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
import transformers
from clips import FRAME, Clips, Crops
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import claim_folder, replacing
from speechbrain_ext.utils.hparams import load_hparams

logger = get_logger(__name__)

# Beside the data: what makes a training another one.
SETTINGS = (
    *("seed", "valid_share", "batch_seconds", "teacher_layers"),
    *("copied_layers", "max_lr", "warmup_steps", "max_grad_norm"),
)


class MiniBrain(sb.Brain):
    """Trains the student on all tasks.

    Needs in ``modules``: ``student`` and ``tasks``; in ``hparams``:
    ``max_lr``, ``warmup_steps``, ``decay_share``, ``number_of_epochs``,
    ``max_steps`` (None: all epochs are run) and ``train_logger``.
    """

    def fit_crops(self, epoch_counter, train, valid, batch_seconds):
        """Train on crops.

        Arguments
        ---------
        epoch_counter : iterable
            SpeechBrain's epoch counter.
        train, valid : Crops
            Of disjoint clips.
        batch_seconds : float
            Audio of a batch with its padding, at most.
        """
        # Nobody else tells the batches of a single process the epoch.
        self.train_sampler = train.batches(batch_seconds)
        self.total_steps = (
            len(self.train_sampler) * self.hparams.number_of_epochs
        )
        if self.hparams.max_steps is not None:
            self.optimizer_step_limit = self.hparams.max_steps
            self.total_steps = min(self.total_steps, self.hparams.max_steps)
        self.crops = train
        options = {"collate_fn": Crops.collate}
        batches = valid.batches(batch_seconds, shuffle=False)
        self.fit(
            epoch_counter,
            train,
            valid,
            train_loader_kwargs=options | {"batch_sampler": self.train_sampler},
            valid_loader_kwargs=options | {"batch_sampler": batches},
        )

    def init_optimizers(self):
        """The optimiser, and its rate: warm-up, constant, linear decay."""
        super().init_optimizers()
        decay = self.hparams.decay_share * self.total_steps

        def rate(step):
            left = (self.total_steps - step) / decay
            return min((step + 1) / self.hparams.warmup_steps, 1, max(left, 0))

        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("scheduler", self.scheduler)

    def compute_forward(self, batch, stage):
        """Hidden states of the student, a list of [B, frames, dim]."""
        wavs, mask = normalise(batch["wavs"], batch["lengths"])
        return self.modules.student(
            wavs.to(self.device),
            attention_mask=mask.to(self.device),
            output_hidden_states=True,
        ).hidden_states

    def compute_objectives(self, predictions, batch, stage):
        """The loss of all tasks; keeps its parts for the log."""
        batch = {name: value.to(self.device) for name, value in batch.items()}
        loss, parts = self.modules.tasks(predictions, batch)
        for name, value in parts.items():
            self.parts.setdefault(name, []).append(value)
        return loss

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
        self.checkpointer.save_and_keep_only(meta={"loss": stats["loss"]})


def normalise(wavs, lengths):
    """Zero mean and unit variance a clip, over its own samples.

    Arguments
    ---------
    wavs : torch.Tensor
        [B, time], padded at the end.
    lengths : torch.Tensor
        Samples of each, [B].

    Returns
    -------
    wavs : torch.Tensor
        [B, time], zero after the end of each.
    mask : torch.Tensor
        1 for samples of the clip, 0 for padding.
    """
    mask = torch.arange(wavs.shape[1]) < lengths[:, None]
    mean = (wavs * mask).sum(1) / lengths
    centred = (wavs - mean[:, None]) * mask
    variance = centred.square().sum(1) / lengths
    return centred / torch.sqrt(variance + 1e-7)[:, None], mask.long()


def load_crops(hparams):
    """Clips, teacher's frames and voices, as training and validation crops."""
    clips = Clips(hparams["data_folder"], hparams["recordings"])
    logger.info(f"{len(clips)} clips, {clips.hours:.2f} hours")
    targets = hparams["teacher"].targets(clips, hparams["target_folder"])
    voices = hparams["voice"].fit(clips, hparams["target_folder"])
    order = np.random.default_rng(hparams["seed"]).permutation(len(clips))
    count = max(2, round(hparams["valid_share"] * len(clips)))
    make = functools.partial(hparams["crops"], clips, targets, voices)
    train = np.repeat(order[count:], clips.repeats[order[count:]])
    return clips, make(numbers=train), make(numbers=order[:count])


def make_tasks(hparams, clips, crops):
    """The tasks, with the statistics of the teacher's frames."""
    tasks = hparams["tasks"](
        voice=hparams["voice"],
        n_speakers=clips.n_speakers,
        n_words=clips.n_words,
    )
    every = max(1, len(crops.targets) // 20_000)
    frames = torch.from_numpy(np.array(crops.targets[::every]))
    means = [
        crops.targets[start:stop].mean(axis=0, dtype=np.float32)
        for start, stop in itertools.pairwise(clips.frame_starts)
    ]
    tasks.distil.fit_statistics(frames, torch.from_numpy(np.stack(means)))
    return tasks


@torch.no_grad()
def start(hparams, tasks):
    """Starts the student from the teacher."""
    student = hparams["student"]
    config = student.config
    if config.hidden_size != hparams["teacher"].dim:
        raise InputError(
            f"The width is {config.hidden_size}, but the teacher's "
            f"{hparams['teacher'].dim}: they must be the same"
        )
    if int(np.prod(config.conv_stride)) != FRAME:
        raise InputError("The student's frames must be the teacher's")
    hparams["teacher"].initialise(student)
    # The first hidden state on the scale of the teacher's.
    projection = student.feature_projection.projection
    scale = tasks.distil.std[0].mean() / projection.in_features**0.5
    projection.weight.normal_(0, scale.item())
    projection.bias.copy_(tasks.distil.mean[0])


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
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in names
    ]
    with replacing(folder / "SHA256SUMS") as temporary:
        temporary.write_text("".join(sums), encoding="utf-8")


def main(arguments):
    """The whole job: synthesise, teach, train, write the model."""
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    if not hparams["skip_prep"]:
        run_on_main(hparams["prepare"])
    clips, train, valid = load_crops(hparams)
    settings = {key: hparams[key] for key in SETTINGS}
    settings["clips"] = clips.digest
    settings["student"] = hparams["student"].config.to_diff_dict()
    settings["repeats"] = [
        one.get("repeat", 1) for one in hparams["recordings"]
    ]
    settings["tasks"] = hparams["tasks"].keywords
    settings["voice"] = hparams["voice"].config
    run_on_main(claim_folder, args=[hparams["save_folder"], settings])
    tasks = make_tasks(hparams, clips, train)
    start(hparams, tasks)
    hparams["checkpointer"].add_recoverable("tasks", tasks)
    brain = MiniBrain(
        modules=hparams["modules"] | {"tasks": tasks},
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.fit_crops(
        hparams["epoch_counter"], train, valid, hparams["batch_seconds"]
    )
    run_on_main(write_model, args=[hparams["student"], hparams["model_folder"]])
    logger.info(f"The model is in {hparams['model_folder']}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
