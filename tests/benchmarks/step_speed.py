"""Time of a training step, beside that of its bare network.

    python tests/benchmarks/step_speed.py [ROUNDS]

By turns (51 rounds), steps of the published network without the optimiser: on
blocks of 16 speakers x 32 contents, 512 features of 768 numbers, out of a grid
of 64 x 64.

* a step: its block is drawn, its features taken, the network run, the loss
  computed, and the gradient;
* the network alone: forward, and the gradient of a sum, on features at hand;
* a step by ``torch.compile``, network and loss together (without a compiler of
  C++ it is left out).
"""

import sys

import clock
import numpy as np
import torch

from speechbrain_ext.dataio.grid import BlockSampler, Grid, GridFeatures
from speechbrain_ext.lobes.subspaces import SubspaceNetwork
from speechbrain_ext.nnet.losses import InterventionalLoss


def blocks(features, sampler):
    """Blocks of one epoch after the other."""
    epoch = 0
    while True:
        epoch += 1
        sampler.set_epoch(epoch)
        for rows in sampler:
            yield features.__getitems__(rows)


def measure(rounds=51):
    """A row for the network alone and for each kind of step."""
    torch.manual_seed(0)
    cells = np.arange(64 * 64)
    grid = Grid({"speaker": cells // 64, "content": cells % 64})
    features = GridFeatures(torch.randn(len(grid), 1, 768), grid)
    sampler = BlockSampler(grid, {"speaker": 16, "content": 32})
    drawn, at_hand = blocks(features, sampler), features.features[:512]
    widths = {"speaker": 384, "content": 384}
    network = SubspaceNetwork([1, 768], [*widths], widths, standardise=True)
    loss = InterventionalLoss()

    def both(block, codes):
        return loss(network(block), codes)[0]

    def step(run):
        network.zero_grad()
        run(*next(drawn)).backward()

    def bare():
        network.zero_grad()
        sum(z.sum() for z in network(at_hand).values()).backward()

    compiled = torch.compile(both)
    measured = {
        "network alone": bare,
        "step": lambda: step(both),
        "compiled step": lambda: step(compiled),
    }
    try:
        step(compiled)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        print(f"Not compiled: {str(error).splitlines()[0]}", file=sys.stderr)
        del measured["compiled step"]
    times = clock.by_turns(measured, rounds)
    return {
        name: {
            "ms": 1000 * np.median(taken),
            "of the network alone": clock.spread(
                taken / times["network alone"]
            ),
        }
        for name, taken in times.items()
    }


if __name__ == "__main__":
    clock.main(measure)
