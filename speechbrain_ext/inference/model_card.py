"""The README.md of an export: what it is, how it did, how to use it."""

from speechbrain_ext.evaluation.report import format_number

_CARD = """\
---
library_name: speechbrain
tags: [{tags}]
---

# {name}: subspaces of {encoder}

Maps the pooled hidden states of the frozen encoder `{encoder}` (layers
{layers}) to the subspaces {subspaces}, after Cox and Barker, "Learning
task-specific subspaces via interventional post-training of speech foundation
models" (Interspeech 2026, arXiv 2606.17967).

```python
from speechbrain_ext.inference import SubspaceEncoder

model = SubspaceEncoder.from_hparams(source="this folder or its hub id")
vector = model.encode_file("a.wav", subspace="{first}")
```

## Training

Grid: {grid}{takes}. Training seed: {seed}. Licence and training data of the
encoder: see its own card.

## Results

On the test grid of the run, {test}:

{table}

*EER*: verification by cosine, target pairs differ in content. *Content*: the
nearest neighbour among other speakers has the same content (chance
{chance} %). *Shifted*: each clip through a random channel of its own.

## Limits

These numbers are of the test grid above: other languages, channels and kinds of
speech will differ. A subspace that verifies no speakers by cosine may still
tell a classifier who speaks: do not use it to make anyone anonymous.
"""


def model_card(results, name):
    """The card of one system of a training run, as Markdown.

    Arguments
    ---------
    results : dict
        The run's ``results.json``.
    name : str
        A system in it.

    Returns
    -------
    str

    Example
    -------
    >>> measured = {"verification": {"eer": 0.1}, "content": {
    ...     "accuracy": 0.25, "chance": 0.125}}
    >>> system = {"subspaces": {"speaker": {"dim": 2, "clean": measured}}}
    >>> grid = {"factors": {"speaker": 3, "content": 8}, "utterances": 24}
    >>> card = model_card({"encoder": "log_mel", "layers": [0], "seed": 1,
    ...     "grid": grid, "test_grid": grid, "systems": {"joint": system}},
    ...     "joint")
    >>> "| joint | speaker | 2 | 10.0 | - | 25.0 | - |" in card
    True
    """
    subspaces = results["systems"][name]["subspaces"]
    first = next(iter(subspaces))
    chance = subspaces[first]["clean"]["content"]["chance"]
    # The other systems are fitted to what the network is trained on.
    used = "augmented_takes" if name == "recommended" else "network_takes"
    takes = results["grid"].get(used)
    return _CARD.format(
        tags=", ".join(["speech-embeddings", *subspaces]),
        name=name,
        encoder=results["encoder"],
        layers=", ".join(map(str, results["layers"])),
        subspaces=" and ".join(f"`{subspace}`" for subspace in subspaces),
        first=first,
        grid=_grid(results["grid"]),
        takes=f", with {takes} augmented take(s) of each" if takes else "",
        seed=results["seed"],
        test=_grid(results["test_grid"]),
        table=_table(results["systems"], name),
        chance=format_number(chance, 100, 1),
    )


def _grid(grid):
    """A grid in words."""
    factors = [f"{count} {name}s" for name, count in grid["factors"].items()]
    return f"{' x '.join(factors)}, {grid['utterances']} utterances"


def _table(systems, name):
    """The subspaces of a system below the pooled features."""
    header = ["system", "subspace", "dimension", "EER %", "EER %, shifted"]
    header += ["content %", "content %, shifted"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for system in dict.fromkeys(["baseline", name]):
        for subspace, entry in systems.get(system, {"subspaces": {}})[
            "subspaces"
        ].items():
            cells = [system, subspace, str(entry["dim"])]
            for measure, key in (
                ("verification", "eer"),
                ("content", "accuracy"),
            ):
                for condition in ("clean", "shifted"):
                    value = entry.get(condition, {}).get(measure, {}).get(key)
                    cells.append(format_number(value, 100, 1))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
