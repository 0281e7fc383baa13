"""Checkpoints that are never found half-written, and damaged ones set aside."""

import json
import logging
import shutil

from speechbrain.utils.checkpoints import (
    Checkpoint,
    Checkpointer,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import (
    ddp_barrier,
    if_main_process,
    run_on_main,
)
from speechbrain.utils.epoch_loop import EpochCounterWithStopper
from speechbrain.utils.logger import get_logger
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import file_digest, sync, write_json

logger = get_logger(__name__)

DIGESTS, WRITING, DAMAGED = "digests.json", ".writing", "damaged"

# SpeechBrain 1.1 leaves this out: only the number of the epoch would be saved,
# and a training that was stopped early would go on when it is called again.
register_checkpoint_hooks(EpochCounterWithStopper)


class SafeCheckpointer(Checkpointer):
    """SpeechBrain's, on a disk that fills up and with runs that are killed.

    A checkpoint is written beside the others with digests of its files, synced
    and only then renamed. Before one is chosen to go on from, those whose files
    are not what was written are set aside, with a warning: the one before is
    taken.

    Arguments
    ---------
    checkpoints_dir, recoverables, ...
        See ``speechbrain.utils.checkpoints.Checkpointer``.

    Example
    -------
    >>> import torch
    >>> folder, model = getfixture("tmp_path"), torch.nn.Linear(1, 1)
    >>> checkpointer = SafeCheckpointer(folder, {"model": model})
    >>> first, second = (checkpointer.save_checkpoint() for _ in range(2))
    >>> _ = (second.path / "model.ckpt").write_bytes(b"cut")
    >>> checkpointer.recover_if_possible().path == first.path
    True
    """

    def save_checkpoint(self, *args, verbosity=logging.INFO, **kwargs):
        """Save all recoverables; see the base class."""
        folder = self.checkpoints_dir
        self.checkpoints_dir = folder / WRITING
        try:
            if if_main_process():
                shutil.rmtree(self.checkpoints_dir, ignore_errors=True)
            # Its log would name the folder that is renamed.
            quiet = {"verbosity": logging.NOTSET}
            saved = super().save_checkpoint(*args, **kwargs, **quiet)
        finally:
            self.checkpoints_dir = folder
        if saved is not None:  # in the main process
            files = list(saved.path.iterdir())
            sums = {path.name: file_digest(path) for path in files}
            write_json(saved.path / DIGESTS, sums)
            for path in [*files, saved.path]:
                sync(path)
            final = folder / saved.path.name
            while final.exists():  # SpeechBrain's names have seconds
                final = final.with_name(f"{final.name}+")
            saved.path.rename(final)
            saved.path.parent.rmdir()
            sync(folder)
            files = {
                name: final / p.name for name, p in saved.paramfiles.items()
            }
            saved = Checkpoint(final, saved.meta, files)
            logger.log(verbosity, f"Saved a checkpoint in {final}")
        ddp_barrier()
        return saved

    def recover_if_possible(self, *args, **kwargs):
        """Load the checkpoint that is wanted, among those that are whole."""
        run_on_main(self.set_damaged_aside)
        return super().recover_if_possible(*args, **kwargs)

    def set_damaged_aside(self):
        """Rename checkpoints whose files are not what was written."""
        for path in self.checkpoints_dir.glob("CKPT*"):
            if damage := _find_damage(path):
                aside = path.with_name(f"{DAMAGED}+{path.name}")
                path.rename(aside)
                logger.warning(
                    f"The checkpoint {path} is damaged ({damage}): set aside "
                    f"as {aside.name}, the newest whole one is used"
                )


def _find_damage(folder):
    """What is wrong with a checkpoint, in words; None if it is whole."""
    try:
        sums = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        for name, digest in sums.items():
            if file_digest(folder / name) != digest:
                return f"{name} is not what was written"
    except (OSError, ValueError, AttributeError) as error:
        return f"{DIGESTS} cannot be read: {error}"
    except InputError as error:
        return error
    return None
