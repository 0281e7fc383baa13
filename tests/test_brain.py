"""The Brain: training, schedule, checkpoints, resuming."""

import functools

import numpy as np
import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import (
    FileTrainLogger,
    TensorboardLogger,
)

from speechbrain_ext.core import InterventionalBrain
from speechbrain_ext.dataio.grid import BlockSampler, Grid, GridFeatures
from speechbrain_ext.lobes.subspaces import SubspaceNetwork
from speechbrain_ext.nnet.losses import InterventionalLoss
from speechbrain_ext.utils.errors import InputError

FACTORS = ["speaker", "content"]


def entangled(n_speakers, n_contents, seed):
    """Features: a random mix of a speaker and a content vector, plus noise."""
    mixing = np.random.default_rng(99).standard_normal((16, 20))
    rng = np.random.default_rng(seed)
    speakers = rng.standard_normal((n_speakers, 8))
    contents = rng.standard_normal((n_contents, 8))
    s, c = np.divmod(np.arange(n_speakers * n_contents), n_contents)
    latent = np.concatenate([speakers[s], contents[c]], axis=1)
    features = latent @ mixing + 0.1 * rng.standard_normal((len(s), 20))
    features = torch.tensor(features, dtype=torch.float32).unsqueeze(1)
    return GridFeatures(features, Grid({"speaker": s, "content": c}))


class Run:
    """One training run in a folder."""

    def __init__(self, folder, epochs=6, planned=None, max_lr=1e-2, **opts):
        torch.manual_seed(0)
        self.network = SubspaceNetwork(
            [1, 20], FACTORS, dict.fromkeys(FACTORS, 6), [32]
        )
        self.counter = EpochCounter(limit=epochs)
        self.lrs = []
        self.brain = InterventionalBrain(
            modules={"network": self.network},
            opt_class=functools.partial(torch.optim.AdamW, lr=max_lr),
            hparams={
                "loss": InterventionalLoss(),
                "number_of_epochs": planned or epochs,
                "lr_scheduler": functools.partial(
                    torch.optim.lr_scheduler.OneCycleLR,
                    max_lr=max_lr,
                    pct_start=0.1,
                    div_factor=25,
                    final_div_factor=1000,
                ),
                "train_logger": FileTrainLogger(folder / "train_log.txt"),
            },
            run_opts={"device": "cpu", "noprogressbar": True, **opts},
            checkpointer=Checkpointer(
                folder / "save",
                {"network": self.network, "counter": self.counter},
            ),
        )
        step = self.brain.optimizers_step

        def recording():
            self.lrs.append(self.brain.optimizer.param_groups[0]["lr"])
            step()

        self.brain.optimizers_step = recording

    def fit(self):
        grids = entangled(8, 12, 1), entangled(4, 6, 2)
        blocks = (
            BlockSampler(grids[0].grid, {"speaker": 4, "content": 6}),
            BlockSampler(grids[1].grid, {}, shuffle=False),
        )
        self.brain.fit_grid(self.counter, *grids, *blocks)
        return self


def excess(folder, stage="valid"):
    """Excess over the floor after every epoch."""
    lines = (folder / "train_log.txt").read_text().splitlines()
    return [
        float(line.split(f"{stage} excess: ")[1].split(",")[0])
        for line in lines
    ]


def test_training_lowers_the_excess_and_logs_it(tmp_path):
    Run(tmp_path, epochs=15).fit()
    values = excess(tmp_path, "train")
    assert len(values) == 15
    assert values[-1] < 0.2 * values[0]
    log = (tmp_path / "train_log.txt").read_text()
    for name in ("excess_speaker", "excess_content", "orthogonality"):
        assert f"valid {name}: " in log


def test_learning_rate_curve(tmp_path):
    """The published one-cycle curve, here over 24 steps."""
    lrs = Run(tmp_path, epochs=6, max_lr=1e-4).fit().lrs
    assert len(lrs) == 24
    assert lrs[0] == pytest.approx(4e-6)
    assert max(lrs) == pytest.approx(1e-4, rel=0.02)
    assert lrs[-1] == pytest.approx(4e-9, rel=1e-3)
    assert np.argmax(lrs) in (1, 2)  # 10 % of the steps


def test_best_and_last_are_named(tmp_path):
    run = Run(tmp_path, epochs=8, max_lr=0.5).fit()  # diverges: best is early
    values = excess(tmp_path)
    best = run.brain.load_checkpoint("best")
    # The log is rounded, the checkpoint's record is not.
    assert best["excess"] == pytest.approx(min(values), rel=0.01)
    assert run.brain.load_checkpoint("last")["epoch"] == 8
    named = {n: (tmp_path / "save" / n).resolve() for n in ("best", "last")}
    assert all((p / "network.ckpt").is_file() for p in named.values())
    assert len(list((tmp_path / "save").glob("CKPT*"))) == len(
        set(named.values())
    )
    run.brain.load_checkpoint("best")
    state = torch.load(named["best"] / "network.ckpt")
    for key, value in run.network.state_dict().items():
        assert torch.equal(value, state[key])


def test_resume_at_an_epoch_equals_one_go(tmp_path):
    whole = Run(tmp_path / "whole", epochs=6).fit()
    Run(tmp_path / "parts", epochs=3, planned=6).fit()
    resumed = Run(tmp_path / "parts", epochs=6).fit()
    assert len(resumed.lrs) == 12
    assert whole.lrs[12:] == pytest.approx(resumed.lrs)
    for a, b in zip(whole.network.parameters(), resumed.network.parameters()):
        assert torch.allclose(a, b, atol=1e-6)


def test_no_checkpoint_raises(tmp_path):
    brain = Run(tmp_path).brain
    with pytest.raises(InputError, match="No checkpoint in"):
        brain.load_checkpoint("best")
    with pytest.raises(InputError, match="expected best or last"):
        brain.load_checkpoint("first")


def test_tensorboard_takes_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    run = Run(tmp_path, epochs=2)
    logger = TensorboardLogger(tmp_path / "tensorboard")
    run.brain.hparams.train_logger = logger
    run.fit()
    logger.writer.close()
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    values = events.Scalars("excess_speaker/valid")
    assert [event.step for event in values] == [1, 2]
    best = run.brain.load_checkpoint("last")["excess"]
    assert events.Scalars("excess/valid")[-1].value == pytest.approx(best)


def test_run_options(tmp_path):
    debug = Run(tmp_path / "debug", debug=True, debug_batches=1).fit()
    assert len(debug.lrs) == 2  # two epochs of one batch
    half = Run(tmp_path / "half", epochs=2, precision="bf16").fit()
    assert len(half.lrs) == 8
    slow = Run(tmp_path / "slow", epochs=4, grad_accumulation_factor=2).fit()
    assert len(slow.lrs) == 8
    assert slow.lrs[-1] == pytest.approx(min(slow.lrs))
