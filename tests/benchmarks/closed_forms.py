"""Closed forms on many utterances: time against Gram products, and memory.

    python tests/benchmarks/closed_forms.py [UTTERANCES [DIM]]

For 100,000 utterances of dimension 768, as recorded and in two takes through
channels, in float32 and in memory; speakers x sentences, 200 utterances of
each speaker. Printed is the most memory (resident set) before a closed form,
with the input and all imports, and after it, each in a process of its own. Then
CPU seconds, on one thread, of ``X.T @ X`` of the three takes and of
:func:`channel_lda` on them, and of one product and of :func:`grid_lda` on the
recorded one: medians of interleaved repeats, and their ratios.
"""

import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from speechbrain_ext.processing.closed_form import channel_lda, grid_lda

NAMES = ("channel_lda", "grid_lda")
REPEATS = 5


def simulate(count, dim):
    """Takes [3, count, 1, dim] and labels."""
    random = torch.Generator().manual_seed(0)
    codes = np.divmod(np.arange(count), 200)
    labels = dict(zip(("speaker", "content"), codes))
    parts = [
        torch.randn(int(code.max()) + 1, dim, generator=random)
        for code in codes
    ]
    takes = torch.empty(3, count, 1, dim).normal_(generator=random)
    for start in range(0, count, 1000):
        rows = slice(start, start + 1000)
        for part, code in zip(parts, codes):
            takes[0, rows, 0] += part[code[rows]]
        takes[1:, rows] += takes[:1, rows]
    return takes, labels


def gram(takes):
    """Sums of products of the features, of each take."""
    for take in takes[:, :, 0].numpy():
        take.T @ take


def fits(takes, labels):
    """What is measured, by name, and the takes whose products it is beside."""
    measured = (
        (lambda: channel_lda(takes, labels), takes),
        (lambda: grid_lda(takes[0], labels), takes[:1]),
    )
    return dict(zip(NAMES, measured))


def seconds(function, *given):
    """CPU time."""
    begin = time.process_time()
    function(*given)
    return time.process_time() - begin


def peak():
    """The most memory so far, in 10^9 bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def memory(name, count, dim):
    """Print the memory of one closed form, of a process of its own."""
    takes, labels = simulate(count, dim)
    fit, _ = fits(takes, labels)[name]
    size, before = takes.numpy().nbytes / 1e9, peak()
    fit()
    print(
        f"  {name}: {before:.2f} before (input {size:.2f}), {peak():.2f} after"
    )


def main(count=100000, dim=768, name=None):
    """Time in this process, memory in others."""
    torch.set_num_threads(1)
    count, dim = int(count), int(dim)
    if name:
        memory(name, count, dim)
        return
    # First, as a process begins with the most memory of its parent.
    print(f"{count} x {dim}: memory, 10^9 bytes", flush=True)
    for name in NAMES:
        command = [sys.executable, __file__, str(count), str(dim), name]
        subprocess.run(command, check=True)
    print("CPU seconds")
    for name, (fit, takes) in fits(*simulate(count, dim)).items():
        found = [(seconds(fit), seconds(gram, takes)) for _ in range(REPEATS)]
        spent, products = np.median(found, axis=0)
        ratio = np.median([one / other for one, other in found])
        print(f"  {name} {spent:.2f}, products {products:.2f}: {ratio:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
