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
HPARAMS = RECIPE / "hparams/recorded_grid.yaml"
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

    def __init__(
        self, folder, stop=None, run_opts=None, hparams=HPARAMS, **options
    ):
        given = {
            "data_folder": "unused",
            "output_folder": str(folder),
            "layers": [0],
            "subspace_widths": {"speaker": 6, "content": 6},
            "train_block": {"speaker": 4, "content": 6},
            "network": {"hidden": [32]},
        }
        self.hparams = load_hparams(hparams, given | options)
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
        return self.validate()[1]["excess"].item()

    def validate(self):
        """Loss and its parts of the network as it is now."""
        valid, network = GRIDS["valid"], self.network.eval()
        codes = {f: valid.codes[:, i] for i, f in enumerate(valid.grid.factors)}
        with torch.no_grad():
            return self.hparams["loss"](network(valid.features), codes)


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


def test_training_on_a_sparse_grid(tmp_path, monkeypatch):
    """As many steps as its blocks around filled cells, which lower the loss."""
    full = entangled(16, 24, 1)
    kept = np.random.default_rng(0).permutation(len(full))[:60]
    labels = {f: full.grid.labels(f)[kept] for f in full.grid.factors}
    train_grid = GridFeatures(full.features[kept], Grid(labels))
    monkeypatch.setitem(GRIDS, "train", train_grid)
    block = {"speaker": 4, "content": 6}
    run = Run(
        tmp_path, number_of_epochs=15, max_lr=0.01, train_block=block
    ).fit()
    values = logged(tmp_path, "train excess")
    assert len(values) == 15 and values[-1] < 0.3 * values[0]
    assert 10 <= len(run.lrs) / 15 < 4 * 4  # blocks of 6 cells, or of the grid
    mean = np.mean([len(block) for block in run.blocks[:10]])
    assert mean > 2 * 24 * 60 / len(full)  # of a block at random


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
    """A training that diverges: the best is an early one, by the whole loss."""
    run = Run(
        tmp_path,
        number_of_epochs=8,
        max_lr=0.5,
        checkpoint=checkpoint,
        loss={"weights": {"orthogonality": 30.0}},
        train_logger={"precision": 6},
    ).fit()
    found = logged(tmp_path, "valid loss")
    assert np.argmin(found) < 7 and min(found) < 0.95 * found[-1]
    # By the excess alone it would be another one.
    assert np.argmin(logged(tmp_path, "valid excess")) != np.argmin(found)
    wanted = min(found) if checkpoint == "best" else found[-1]
    assert run.validate()[0].item() == pytest.approx(wanted, rel=1e-4)
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


RAMPS = {"speaker": [0.0, 1.0, 1, 4], "orthogonality": [0.0, 90.0, 2, 5]}


def test_ramps_and_early_stopping_are_resumed(tmp_path):
    """Two runs that are stopped by their validation equal one that is not."""
    options = {
        "number_of_epochs": 9,
        "patience": 2,
        "max_lr": 0.05,
        "checkpoint": "best",
        "loss": {"weights": RAMPS},
        "train_logger": {"precision": 6},
    }
    whole = Run(tmp_path / "whole", **options).fit()
    losses = logged(tmp_path / "whole", "valid loss")
    assert len(losses) == int(np.argmin(losses)) + 1 + 2 < 9
    assert len(whole.lrs) == 4 * len(losses)
    # Validated by the weights that the ramps end with
    assert whole.validate()[0].item() == pytest.approx(min(losses), rel=1e-4)
    for name in ("excess_speaker", "excess_content", "orthogonality"):
        assert len(logged(tmp_path / "whole", f"train {name}")) == len(losses)
    # In two parts, with a checkpoint within an epoch
    often = {"ckpt_interval_steps": 3}
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "parts", 8 + 3, often, **options).fit()
    resumed = Run(tmp_path / "parts", None, often, **options).fit()
    assert whole.lrs[8 + 3 :] == resumed.lrs
    assert same(whole, resumed, **EXACT)
    # What was stopped is finished.
    again = Run(tmp_path / "parts", **options).fit()
    assert again.lrs == [] and same(whole, again, **EXACT)
    assert logged(tmp_path / "parts", "valid loss") == losses


def test_weights_of_each_epoch(tmp_path):
    """The loss of training has the weights of its epoch."""
    options = {"loss": {"weights": RAMPS}, "train_logger": {"precision": 8}}
    Run(tmp_path, number_of_epochs=5, **options).fit()
    names = ("loss", "excess_speaker", "excess_content", "orthogonality")
    of_speaker, of_pairs = [0, 1 / 3, 2 / 3, 1, 1], [0, 0, 30, 60, 90]
    for stage in ("train", "valid"):
        if stage == "valid":  # those that the ramps end with
            of_speaker, of_pairs = [1] * 5, [90] * 5
        parts = [logged(tmp_path, f"{stage} {name}") for name in names]
        for *weights, loss, speaker, content, pairs in zip(
            of_speaker, of_pairs, *parts
        ):
            # Blocks of 4 x 6: floors of log 5 and log 3
            expected = weights[0] * (speaker + np.log(5)) + weights[1] * pairs
            expected += content + np.log(3)
            assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("accumulated, steps_per_epoch", [(1, 4), (2, 2)])
def test_limit_of_steps(accumulated, steps_per_epoch, tmp_path):
    """Ends within an epoch, which is validated and kept; once."""
    limit, epochs = 2 * steps_per_epoch + 1, 3
    run_opts = {
        "optimizer_step_limit": limit,
        "grad_accumulation_factor": accumulated,
    }
    run = Run(tmp_path, None, run_opts, number_of_epochs=30).fit()
    assert len(run.lrs) == run.brain.optimizer_step == limit
    assert run.lrs[-1] == pytest.approx(4e-9, rel=1e-3)
    losses = logged(tmp_path, "valid loss")
    assert len(losses) == epochs
    assert run.excess() == pytest.approx(
        logged(tmp_path, "valid excess")[-1], rel=0.01
    )
    again = Run(tmp_path, None, run_opts, number_of_epochs=30).fit()
    assert again.lrs == [] and same(run, again, **EXACT)
    assert logged(tmp_path, "valid loss") == losses
    # Stopped, and gone on with
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "2", limit - 1, run_opts, number_of_epochs=30).fit()
    resumed = Run(tmp_path / "2", None, run_opts, number_of_epochs=30).fit()
    assert len(resumed.lrs) == 1 and same(run, resumed, **EXACT)


def test_limits_of_steps_of_the_option_file(tmp_path):
    """One that is beyond the epochs, or at the end of one."""
    for limit, steps in ((99, 8), (8, 8), (4, 4)):
        folder = tmp_path / str(limit)
        options = {"number_of_epochs": 2, "optimizer_step_limit": limit}
        run = Run(folder, **options).fit()
        assert len(run.lrs) == steps
        assert len(logged(folder, "valid loss")) == steps // 4
        assert run.lrs[-1] == pytest.approx(4e-9, rel=1e-3)


def scheduled(folder, name, interval="step", **arguments):
    """The option file with another schedule of torch."""
    text = HPARAMS.read_text(encoding="utf-8")
    lines = [f"    {key}: {value}\n" for key, value in arguments.items()]
    text, found = re.subn(
        r"(lr_scheduler: !name:torch.optim.lr_scheduler.).*\n(    .*\n)+",
        rf"\g<1>{name}\n{''.join(lines)}",
        text,
    )
    assert found == 1
    path = folder / f"{name}.yaml"
    path.write_text(text.replace("interval: step", f"interval: {interval}"))
    return path


def test_reduction_of_the_rate_on_a_plateau(tmp_path):
    """Each validation that is not better than the best halves the rate."""
    path = scheduled(
        tmp_path, "ReduceLROnPlateau", factor=0.5, patience=0, threshold=0
    )
    options = {"hparams": path, "number_of_epochs": 6, "max_lr": 0.1}
    options["train_logger"] = {"precision": 6}
    run = Run(tmp_path / "whole", **options).fit()
    losses = logged(tmp_path / "whole", "valid loss")
    rate, best, expected = 0.1, float("inf"), []
    for loss in losses:
        expected += [rate] * 4
        rate, best = (rate, loss) if loss < best else (rate / 2, best)
    assert run.lrs == pytest.approx(expected)
    assert len({*run.lrs}) > 1
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "parts", 13, **options).fit()
    resumed = Run(tmp_path / "parts", **options).fit()
    assert run.lrs[12:] == resumed.lrs and same(run, resumed, **EXACT)


def test_schedules_by_epochs_and_by_steps(tmp_path):
    arguments = {"step_size": 2, "gamma": 0.1}
    path = scheduled(tmp_path, "StepLR", "epoch", **arguments)
    run = Run(tmp_path / "1", hparams=path, number_of_epochs=3).fit()
    assert run.lrs == pytest.approx([1e-4] * 8 + [1e-5] * 4)
    path = scheduled(tmp_path, "StepLR", "step", **arguments)
    run = Run(tmp_path / "2", hparams=path, number_of_epochs=1).fit()
    assert run.lrs == pytest.approx([1e-4] * 2 + [1e-5] * 2)
    # One cycle over the epochs: it is told how many they are.
    run = Run(tmp_path / "3", number_of_epochs=5, lr_interval="epoch").fit()
    assert run.lrs[::4] == run.lrs[3::4] and len({*run.lrs}) == 5
    assert run.lrs[-1] == pytest.approx(4e-9, rel=1e-3)


def test_a_schedule_that_cannot_be_is_refused(tmp_path):
    """A tenth of ten steps is one, which is no phase; a rate is missing."""
    incomplete = scheduled(tmp_path, "CyclicLR", base_lr=0.1)
    for options in ({"optimizer_step_limit": 10}, {"hparams": incomplete}):
        with pytest.raises(InputError, match="no schedule of torch for"):
            Run(tmp_path / "run", **options).fit()


def test_order_of_the_blocks(tmp_path):
    """Grouped, the second group of speakers meets the contents of the first."""
    options = {"number_of_epochs": 1}
    run = Run(tmp_path / "grouped", block_order="grouped", **options).fit()
    cut = [set(block) for block in run.blocks[:4]]
    assert cut[:2] == cut[2:] and not cut[0] & cut[1]
    run = Run(tmp_path / "shuffled", **options).fit()
    cut = [set(block) for block in run.blocks[:4]]
    assert len({frozenset(part) for part in cut}) == 4


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


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    """SpeechBrain's own logger, by the line that the option file shows."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    comment = (RECIPE / "hparams/interventional.yaml").read_text()
    logger, arguments = re.search(
        r"Weights & Biases: (!new:\S+)\n# with (initializer: .*)", comment
    ).groups()
    text, found = re.subn(
        r"train_logger: .*\n    save_file: .*",
        f"train_logger: {logger}\n    {arguments}",
        HPARAMS.read_text(encoding="utf-8"),
    )
    assert found == 1
    path = tmp_path / "wandb.yaml"
    path.write_text(text, encoding="utf-8")
    run = Run(tmp_path, hparams=path, number_of_epochs=2)
    logged = run.hparams["train_logger"].run
    try:
        run.fit()
        logged.log({}, step=3)  # which writes the one before
        last = logged.summary["valid"]["excess"]
        assert logged.project == "NAME" and logged.summary["epoch"] == 2
    finally:
        logged.finish()
    assert last == pytest.approx(run.excess(), rel=1e-5)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


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
