"""The Brain of interventional post-training."""

import os
from pathlib import Path

import speechbrain as sb
import torch

from speechbrain_ext.dataio.grid import GridFeatures
from speechbrain_ext.utils.errors import InputError


class InterventionalBrain(sb.Brain):
    """Trains a subspace network on blocks of pooled features.

    Needs in ``modules``: ``network``; in ``hparams``: ``loss`` (an
    :class:`speechbrain_ext.nnet.losses.InterventionalLoss`),
    ``lr_scheduler`` (a partial that takes the optimiser and
    ``total_steps``), ``train_logger`` and ``number_of_epochs``.

    After every epoch ``save/last`` points at its checkpoint and ``save/best``
    at the one with the lowest validation excess; both are kept.
    """

    @staticmethod
    def blocks_multiple():
        """What the number of training blocks must be a multiple of.

        Two blocks a process: of a single one SpeechBrain's distributed wrapper
        hands over the utterances in place of the block.
        """
        world_size = int(os.environ.get("WORLD_SIZE", 1))
        return 1 if world_size == 1 else 2 * world_size

    def fit_grid(self, epoch_counter, train, valid, train_blocks, valid_blocks):
        """Train on blocks of a grid.

        Arguments
        ---------
        epoch_counter : iterable
            SpeechBrain's epoch counter.
        train, valid : GridFeatures
            Features with their factors.
        train_blocks, valid_blocks : BlockSampler
            Blocks of either grid.
        """
        # Under DDP the wrapper that shards the blocks takes this place.
        self.train_sampler = train_blocks
        world_size = int(os.environ.get("WORLD_SIZE", 1))
        steps = (
            -(-len(train_blocks) // world_size) * self.hparams.number_of_epochs
        )
        self.total_steps = -(-steps // self.grad_accumulation_factor)
        options = {"collate_fn": GridFeatures.collate}
        self.fit(
            epoch_counter,
            train,
            valid,
            train_loader_kwargs={"batch_sampler": train_blocks, **options},
            valid_loader_kwargs={"batch_sampler": valid_blocks, **options},
        )

    def init_optimizers(self):
        """The optimiser, and the schedule over all its steps."""
        super().init_optimizers()
        self.scheduler = self.hparams.lr_scheduler(
            self.optimizer, total_steps=self.total_steps
        )
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("scheduler", self.scheduler)

    def compute_forward(self, batch, stage):
        """Subspaces of a block: factor -> [B, D]."""
        features, _ = batch
        return self.modules.network(features.to(self.device))

    def compute_objectives(self, predictions, batch, stage):
        """The loss of a block; keeps its parts for the log."""
        codes = {f: c.to(self.device) for f, c in batch[1].items()}
        loss, parts = self.hparams.loss(predictions, codes)
        for name, value in parts.items():
            self.parts.setdefault(name, []).append(value)
        return loss

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """The learning rate follows its schedule step by step."""
        if should_step and self.scheduler.last_epoch + 1 < self.total_steps:
            self.scheduler.step()

    def on_stage_start(self, stage, epoch=None):
        """Start the means of a stage."""
        self.parts = {}

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log; after validation, checkpoint."""
        stats = {"loss": stage_loss} | {
            name: torch.stack(values).mean().item()
            for name, values in self.parts.items()
        }
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
        elif stage == sb.Stage.VALID:
            self.hparams.train_logger.log_stats(
                {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]},
                train_stats=self.train_stats,
                valid_stats=stats,
            )
            self.checkpointer.save_and_keep_only(
                meta={"excess": stats["excess"], "epoch": epoch},
                min_keys=["excess"],
            )
            sb.utils.distributed.run_on_main(self._name_checkpoints)

    def _find(self, which):
        if which == "best":
            return self.checkpointer.find_checkpoint(min_key="excess")
        return self.checkpointer.find_checkpoint()

    def _name_checkpoints(self):
        """Links ``best`` and ``last`` in the folder of the checkpoints."""
        for which in ("best", "last"):
            target = self._find(which).path
            link = Path(target).with_name(which)
            beside = link.with_name(f".{which}.{os.getpid()}")
            beside.symlink_to(target.name)
            os.replace(beside, link)

    def load_checkpoint(self, which="best"):
        """Load the parameters of the network from a checkpoint.

        Arguments
        ---------
        which : str
            ``"best"`` by validation excess, or ``"last"``.

        Raises
        ------
        InputError
            If there is no checkpoint, or ``which`` is something else.
        """
        if which not in ("best", "last"):
            raise InputError(f"No checkpoint '{which}': expected best or last")
        found = self._find(which)
        if found is None:
            raise InputError(
                f"No checkpoint in {self.checkpointer.checkpoints_dir}: train "
                "first (a network that was never trained is not evaluated)"
            )
        network = self.raw_network()
        state = torch.load(
            found.paramfiles["network"], map_location=self.device
        )
        network.load_state_dict(state)
        return found.meta

    def raw_network(self):
        """The network without the wrapper of distributed training."""
        network = self.modules.network
        return getattr(network, "module", network)
