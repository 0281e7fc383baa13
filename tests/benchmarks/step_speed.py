"""Time of a training step, beside that of its bare network.

    python tests/benchmarks/step_speed.py [ROUNDS]

CPU time on one thread, by turns, of steps of the published network without the
optimiser: on blocks of 16 speakers x 32 contents, 512 features of 768 numbers,
out of a grid of 64 x 64.

* a step: its block is drawn, its features taken, the network run, the loss
  computed, and the gradient;
* the network alone: forward, and the gradient of a sum, on features at hand;
* a step by ``torch.compile``, network and loss together (without a compiler of
  C++ it is left out).

Printed are milliseconds and ratios to the network alone: the median of the
rounds (51), the lowest and the highest.
"""

import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

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


def main(rounds=51):
    """Measure and print."""
    torch.set_num_threads(1)
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
        print(f"Not compiled: {str(error).splitlines()[0]}")
        del measured["compiled step"]
    times = []
    for _ in range(int(rounds)):
        for run in measured.values():
            begin = time.process_time()
            run()
            times.append(time.process_time() - begin)
    times = np.reshape(times, (-1, len(measured))).T
    for name, taken in zip(measured, times):
        ratio = np.sort(taken / times[0])
        print(
            f"{name}: {1000 * np.median(taken):.1f} ms, ratio "
            f"{np.median(ratio):.2f} ({ratio[0]:.2f} to {ratio[-1]:.2f})"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
