"""Several processes that share blocks, and other work, are one."""

import datetime
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_brain import Run, entangled, train

from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.run_opts import RunOptions
from speechbrain_ext.dataio.grid import GridFeatures
from speechbrain_ext.nnet.distributed import deal, processes, start_group
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import parse_arguments

GRIDS = {"train": entangled(10, 14, 1), "valid": entangled(4, 6, 2)}
BLOCK = {"speaker": 5, "content": 7}  # neither 2 nor 3 divides its rows
# Type of numbers, accumulated blocks
RUNS = [(torch.float32, 1), (torch.float32, 2), (torch.float64, 2)]


def ten_losses(folder, dtype, accumulated):
    """Of the recipe's training: losses, gradients of steps, parameters."""
    torch.set_default_dtype(dtype)
    run = Run(
        f"{folder}/{dtype}_{accumulated}",
        run_opts={
            "grad_accumulation_factor": accumulated,
            "distributed_backend": "gloo",
        },
        train_block=BLOCK,
        number_of_epochs=3,  # of four blocks
    )
    losses, gradients = [], []
    objectives, step = run.brain.compute_objectives, run.brain.scaler.step

    def watching(predictions, batch, stage):
        loss = objectives(predictions, batch, stage)
        if run.brain.modules.network.training:
            losses.append(loss.item() / processes())
        return loss

    def stepping(optimizer):
        [group] = optimizer.param_groups
        gradients.append([p.grad.clone() for p in group["params"]])
        step(optimizer)

    run.brain.compute_objectives, run.brain.scaler.step = watching, stepping
    grids = {
        split: GridFeatures(one.features.to(dtype), one.grid)
        for split, one in GRIDS.items()
    }
    network = train.fit_network(run.hparams, run.brain, grids)
    torch.set_default_dtype(torch.float32)
    return losses[:10], gradients[0], list(network.state_dict().values())


def broken(key):
    """Like a probe of labels that are no good, in one of the processes."""
    if key == "b":
        raise InputError("b is no good")


def work(rank, count, folder):
    """What one of the processes does."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, rank=rank, world_size=count)
    dealt = deal(lambda key: (key, rank), "abcd")
    with pytest.raises(InputError, match="b is no good"):
        deal(broken, "abcd")
    # What the main process does alone waits for no other.
    alone = run_on_main(deal, args=[lambda key: (key, rank), "ab"])
    assert alone == {"a": ("a", 0), "b": ("b", 0)}
    found = [ten_losses(folder, *one) for one in RUNS]
    torch.save((dealt, found), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return [ten_losses(tmp_path_factory.mktemp("alone"), *one) for one in RUNS]


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_are_one(count, alone, tmp_path):
    mp.spawn(work, (count, str(tmp_path)), count)
    for rank in range(count):
        dealt, found = torch.load(tmp_path / f"{rank}.pt")
        assert dealt == {key: (key, i % count) for i, key in enumerate("abcd")}
        assert list(dealt) == list("abcd")
        for (dtype, _), wanted, own in zip(RUNS, alone, found, strict=True):
            exact = dtype == torch.float64  # but for the loss, in float32
            most = {"rtol": 1e-6, "atol": 0} if exact else {"atol": 1e-5}
            assert len(own[0]) == 10
            assert np.allclose(own[0], wanted[0], **{"rtol": 0} | most)
            for one, other in zip(wanted[1], own[1], strict=True):
                assert one.dtype == other.dtype == dtype
                assert (one - other).abs().max() <= 1e-6 * one.abs().max()
            for one, other in zip(wanted[2], own[2], strict=True):
                assert (one - other).abs().max() <= (1e-6 if exact else 1e-5)


def test_a_group_waits_for_days(monkeypatch):
    given = {}
    monkeypatch.setattr(
        dist,
        "init_process_group",
        lambda backend, timeout: given.update(backend=backend, timeout=timeout),
    )
    options = RunOptions(device="cpu")
    assert start_group(options) is options and not given  # no torchrun
    monkeypatch.setenv("LOCAL_RANK", "0")
    found = start_group(options)
    assert given["timeout"] >= datetime.timedelta(days=2)
    assert given["backend"] == found.distributed_backend == "gloo"
    assert "distributed_backend" in found.overridden_args


def test_without_a_device_the_gpu_of_each_process_is_taken(monkeypatch):
    """For the group, and for what encodes, which is no Brain."""
    given = []
    monkeypatch.setattr(
        dist, "init_process_group", lambda *a, **_: given.extend(a)
    )
    monkeypatch.setattr(torch.cuda, "set_device", given.append)
    monkeypatch.setattr(
        "speechbrain_ext.utils.hparams.infer_device", lambda: "cuda:1"
    )
    monkeypatch.setenv("LOCAL_RANK", "1")
    found = start_group(parse_arguments(["train.yaml"])[1])
    assert found.device == "cuda:1" and given == [1, "nccl"]
    words = ["train.yaml", "--distributed_backend=gloo"]  # stays as given
    assert start_group(parse_arguments(words)[1]).distributed_backend == "gloo"
    assert given[2:] == [1, "gloo"]
    assert parse_arguments(["train.yaml", "--device=cpu"])[1].device == "cpu"
