"""Several processes that share a block are one."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from speechbrain_ext.lobes.subspaces import SubspaceNetwork
from speechbrain_ext.nnet.distributed import gather_rows, own_rows, processes
from speechbrain_ext.nnet.losses import InterventionalLoss

ROWS = 35  # of 5 speakers x 7 contents: neither 2 nor 3 divides them


def gradients(parallel):
    """Of one step on one block, and its loss."""
    torch.manual_seed(0)
    widths = {"speaker": 8, "content": 8}
    network = SubspaceNetwork([1, 32], list(widths), widths, hidden=[16])
    block, rows = torch.randn(ROWS, 1, 32), torch.arange(ROWS)
    codes = {"speaker": rows // 7, "content": rows % 7}
    model = parallel(network)  # whose hooks are to see the gradients
    found = model(own_rows(block))
    whole = {name: gather_rows(z, ROWS) for name, z in found.items()}
    loss, _ = InterventionalLoss()(whole, codes)
    (loss * processes()).backward()
    return [p.grad.clone() for p in network.parameters()], loss.item()


def step(rank, count, folder):
    """What one of the processes does."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, rank=rank, world_size=count)
    found = gradients(torch.nn.parallel.DistributedDataParallel)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_of_shared_blocks(count, tmp_path):
    wanted, loss = gradients(lambda network: network)
    mp.spawn(step, (count, str(tmp_path)), count)
    for rank in range(count):
        found, own = torch.load(tmp_path / f"{rank}.pt")
        assert own == pytest.approx(loss, abs=1e-6)
        for one, other in zip(wanted, found, strict=True):
            assert (one - other).abs().max() <= 1e-6 * one.abs().max()
