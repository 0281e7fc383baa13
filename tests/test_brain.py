"""The Brain of train.py: training, schedule, checkpoints, run options."""

import functools
import re

import numpy as np
import pytest
import torch
from conftest import ROOT, load_script

from speechbrain.utils.train_logger import TensorboardLogger
from speechbrain_ext.dataio.grid import Grid, GridFeatures
from speechbrain_ext.lobes.subspaces import SubspaceNetwork
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import load_hparams

RECIPE = ROOT / "recipes/InterventionalTTS/post-training"
train = load_script(RECIPE / "train.py")


def entangled(n_speakers, n_contents, seed):
    """Features: a vector of the speaker and one of the content, plus noise."""
    draw = torch.Generator().manual_seed(seed)
    s, c = np.divmod(np.arange(n_speakers * n_contents), n_contents)
    features = 0.1 * torch.randn(len(s), 560, generator=draw)
    features += torch.randn(n_speakers, 560, generator=draw)[s]
    features += torch.randn(n_contents, 560, generator=draw)[c]
    grid = Grid({"speaker": s, "content": c})
    return GridFeatures(features.unsqueeze(1), grid)


GRIDS = {"train": entangled(8, 12, 1), "valid": entangled(4, 6, 2)}


class Run:
    """A training by the recipe's options, of four blocks per epoch.

    Keeps of each step the learning rate and the norm of the gradients, and of
    each block its contents, whether the network is in training, and its type
    of numbers.
    """

    def __init__(self, folder, stop=None, run_opts=None, **options):
        given = {
            "data_folder": "unused",
            "output_folder": str(folder),
            "layers": [0],
            "subspace_widths": {"speaker": 6, "content": 6},
            "train_block": {"speaker": 4, "content": 6},
            "network": {"hidden": [32]},
        }
        self.hparams = load_hparams(
            RECIPE / "hparams/recorded_grid.yaml", given | options
        )
        self.brain = train.InterventionalBrain(
            opt_class=self.hparams["opt_class"],
            hparams=self.hparams,
            run_opts={"device": "cpu", "noprogressbar": True}
            | (run_opts or {}),
            checkpointer=self.hparams["checkpointer"],
        )
        self.hparams["layers"] = [0]  # as chosen
        self.lrs, self.norms, self.types, self.blocks = [], [], [], []
        step, objectives = self.brain.scaler.step, self.brain.compute_objectives

        def stepping(optimizer):
            if len(self.lrs) == stop:
                raise KeyboardInterrupt
            [group] = optimizer.param_groups
            gradients = [p.grad.norm() for p in group["params"]]
            self.lrs.append(group["lr"])
            self.norms.append(torch.stack(gradients).norm().item())
            step(optimizer)

        def watching(predictions, batch, stage):
            training = self.brain.modules.network.training
            kind = training, predictions["speaker"].dtype
            self.types.append(kind)
            self.blocks.append(batch[1]["content"].tolist())
            return objectives(predictions, batch, stage)

        self.brain.scaler.step = stepping
        self.brain.compute_objectives = watching

    def fit(self, views=None):
        self.network = train.fit_network(self.hparams, self.brain, GRIDS, views)
        # Not a wrapper around it, which would be exported otherwise.
        assert type(self.network) is SubspaceNetwork
        return self

    def excess(self):
        """What the network as it is now gets on the validation grid."""
        valid, network = GRIDS["valid"], self.network.eval()
        codes = {f: valid.codes[:, i] for i, f in enumerate(valid.grid.factors)}
        with torch.no_grad():
            _, parts = self.hparams["loss"](network(valid.features), codes)
        return parts["excess"].item()


def logged(folder, name):
    """A number of the log, epoch by epoch."""
    text = (folder / "train_log.txt").read_text()
    return [float(x) for x in re.findall(rf"{name}: ([^\s,]+)", text)]


def same(one, other, **tolerance):
    """Whether two runs have the same parameters and buffers."""
    state = other.network.state_dict()
    return all(
        torch.allclose(value, state[key], **tolerance)
        for key, value in one.network.state_dict().items()
    )


EXACT = {"rtol": 0, "atol": 0}


def test_training_lowers_the_excess_and_logs_it(tmp_path):
    run = Run(tmp_path, number_of_epochs=15, max_lr=0.01).fit()
    values = logged(tmp_path, "train excess")
    assert len(values) == 15 and values[-1] < 0.2 * values[0]
    for name in ("loss", "excess_speaker", "excess_content", "orthogonality"):
        assert len(logged(tmp_path, f"valid {name}")) == 15
    last = logged(tmp_path, "valid excess")[-1]
    assert run.excess() == pytest.approx(last, rel=0.01)
    # Four blocks of training, then one of validation.
    assert [training for training, _ in run.types[:5]] == [True] * 4 + [False]
    assert len(run.types) == 15 * 5
    assert run.blocks[:4] != run.blocks[5:9]  # each epoch has its own
    mean = run.network.standardiser.mean
    assert torch.allclose(mean, GRIDS["train"].features.mean(0), atol=1e-5)


def test_learning_rate_curve(tmp_path):
    """The published one-cycle curve, here over 24 steps."""
    run = Run(tmp_path, number_of_epochs=6).fit()
    assert len(run.lrs) == 24
    assert run.lrs[0] == pytest.approx(4e-6)
    assert max(run.lrs) == pytest.approx(1e-4, rel=0.02)
    assert run.lrs[-1] == pytest.approx(4e-9, rel=1e-3)
    assert np.argmax(run.lrs) in (1, 2)  # 10 % of the steps
    assert logged(tmp_path, "lr")[-1] == pytest.approx(4e-9, rel=0.01)


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_chosen_checkpoint(checkpoint, tmp_path):
    """A training that diverges: the best is an early one."""
    run = Run(tmp_path, number_of_epochs=8, max_lr=0.5, checkpoint=checkpoint)
    run.fit()
    found = logged(tmp_path, "valid excess")
    assert np.argmin(found) < 7 and min(found) < 0.9 * found[-1]
    wanted = min(found) if checkpoint == "best" else found[-1]
    # The log is rounded.
    assert run.excess() == pytest.approx(wanted, rel=0.01)
    # The last two and the best two, should one be damaged.
    assert len(list((tmp_path / "save").glob("CKPT*"))) == 4


@pytest.mark.parametrize("run_opts", [{}, {"ckpt_interval_steps": 3}])
def test_resuming_equals_one_go(run_opts, tmp_path):
    """Of four steps each; also with checkpoints within epochs."""
    whole = Run(tmp_path / "whole", number_of_epochs=6).fit()
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "parts", 15, run_opts, number_of_epochs=6).fit()
    resumed = Run(tmp_path / "parts", None, run_opts, number_of_epochs=6).fit()
    done = 15 if run_opts else 12
    assert whole.lrs[done:] == resumed.lrs
    assert same(whole, resumed, **EXACT)
    again = Run(tmp_path / "parts", number_of_epochs=6).fit()
    assert again.lrs == [] and same(whole, again, **EXACT)


def test_recordings_beside_the_grid(tmp_path):
    """Three blocks more in each epoch, resumed within one."""
    draw = torch.Generator().manual_seed(3)
    changed = [None, "content", "speaker"]
    views = 5 + torch.randn(24, 3, 1, 560, generator=draw), changed
    whole = Run(tmp_path / "whole", number_of_epochs=2).fit(views)
    assert len(whole.lrs) == 2 * 7
    assert whole.lrs[-1] == pytest.approx(4e-9, rel=1e-3)
    # Of each block whether it holds values of the grid, of which there are 12
    kinds = [{code < 12 for code in block} for block in whole.blocks]
    assert all(len(kind) == 1 for kind in kinds)
    first, second = kinds[:7], kinds[8:15]
    assert first.count({True}) == second.count({True}) == 4
    assert first != second
    assert kinds[7] == kinds[15] == {True}  # validation
    mean = whole.network.standardiser.mean
    assert torch.allclose(mean, GRIDS["train"].features.mean(0), atol=1e-5)
    often = {"ckpt_interval_steps": 3}
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "parts", 10, often, number_of_epochs=2).fit(views)
    resumed = Run(tmp_path / "parts", None, often, number_of_epochs=2)
    resumed.fit(views)
    assert 0 < len(resumed.lrs) < 7 and same(whole, resumed, **EXACT)
    alone = Run(tmp_path / "alone", number_of_epochs=2).fit()
    assert not same(whole, alone, atol=1e-5)


def test_seeds(tmp_path):
    runs = {
        name: Run(tmp_path / name, seed=seed, number_of_epochs=2).fit()
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    }
    assert same(runs["one"], runs["again"], **EXACT)
    assert not same(runs["one"], runs["other"])
    assert runs["one"].blocks != runs["other"].blocks


def test_what_was_drawn_before_changes_no_network(tmp_path):
    """As a choice of layers may draw."""
    one = Run(tmp_path / "one", seed=1, number_of_epochs=1).fit()
    other = Run(tmp_path / "other", seed=1, number_of_epochs=1)
    torch.rand(9)
    assert same(one, other.fit(), **EXACT)


def test_an_untrained_network_is_refused(tmp_path):
    run = Run(tmp_path)
    run.brain.fit_grids = lambda *grids: None
    with pytest.raises(InputError, match="No checkpoint in"):
        run.fit()


def test_tensorboard_takes_the_same_numbers(tmp_path):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    run = Run(tmp_path, number_of_epochs=2)
    logger = TensorboardLogger(tmp_path / "tensorboard")
    run.brain.hparams.train_logger = logger
    run.fit()
    logger.writer.close()
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in found.Scalars("excess/valid")] == [1, 2]
    last = found.Scalars("excess/valid")[-1].value
    assert last == pytest.approx(run.excess(), rel=1e-5)


def test_run_options(tmp_path, monkeypatch):
    """Each changes what it should."""

    def run(name, **run_opts):
        return Run(tmp_path / name, None, run_opts, number_of_epochs=4).fit()

    plain = run("plain")
    assert {dtype for _, dtype in plain.types} == {torch.float32}
    assert max(plain.norms) > 0.1
    debug = run("debug", debug=True, debug_batches=1)
    assert len(debug.lrs) == 2  # two epochs of one batch
    half = run("half", precision="bf16")
    assert {*half.types} == {(True, torch.bfloat16), (False, torch.float32)}
    assert not same(half, plain) and same(half, plain, atol=0.01)
    clipped = run("clipped", max_grad_norm=0.1)
    assert max(clipped.norms) == pytest.approx(0.1, rel=1e-3)
    slow = run("slow", grad_accumulation_factor=3)
    assert len({*slow.lrs}) == 4  # SpeechBrain drops the fourth block
    assert slow.lrs[-1] == pytest.approx(4e-9, rel=1e-3)
    # Without a compiler of C++; the wrapper is the same.
    eager = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", eager)
    compiled = run("compiled", compile=True)
    assert isinstance(
        compiled.brain.modules.network, torch._dynamo.OptimizedModule
    )
    assert same(compiled, plain, atol=1e-5)
