"""The README.md of an export: what it is, how it did, how to use it."""

from tabulate import tabulate

from speechbrain_ext.evaluation.report import SMOKE, choice_line, main_table
from speechbrain_ext.evaluation.results import format_number, select

_CARD = """\
---
library_name: speechbrain
tags: [{tags}]
---

# {name}: subspaces of {encoder}
{smoke}
Maps the pooled hidden states of the frozen encoder `{encoder}` (layers
{layers}) to the subspaces {subspaces}, after Cox and Barker, "Learning
task-specific subspaces via interventional post-training of speech foundation
models" (Interspeech 2026, arXiv 2606.17967).

```python
from speechbrain_ext.inference import SubspaceEncoder

model = SubspaceEncoder.from_hparams(source="this folder or its hub id")
# With unlabelled recordings like yours:
{adapting}
vector = model.encode_file("a.wav", subspace="{first}")
```

This class runs nothing but the package's own code. SpeechBrain's own classes
load the folder too, and run whatever its hyperparams.yaml names, as they do
with every model: use them only with authors that you trust.

## Training

Grid: {grid}{takes}. Training seed: {seed}. Licence and training data of the
encoder: see its own card.
{chosen}
## Results

On the test grid of the run, {test}:

{table}

*EER*: verification by cosine, target pairs differ in content. *Content*: the
nearest neighbour among other speakers has the same content (chance
{chance} %). *Across channels*: each clip goes through a random channel of its
own.

## Limits

The thresholds that a training leaves are those of its validation grid: on
other recordings they may accept strangers. Adapt the model to unlabelled
recordings like yours, or calibrate it on labelled pairs.

These numbers are of the test grid above: other languages, channels and kinds of
speech will differ. A subspace that verifies no speakers by cosine may still
tell a classifier who speaks: do not use it to make anyone anonymous.
"""

_ADAPTED = """
## Adapted to {name}

{count} recordings without labels, {hours:.2f} h. The thresholds are estimated
for {rate:g} % of false acceptance on recordings like these.

{table}

*EER without labels*: versions of one recording, in which all but this factor
was changed, against versions of others; each half judged by the other's head.
"""


def model_card(rows, about, name, subspaces):
    """The card of one system of a training run, as Markdown.

    Arguments
    ---------
    rows, about : list, dict
        The run's results, see
        :func:`~speechbrain_ext.evaluation.results.read_results`.
    name : str
        A system in it.
    subspaces : list of str
        Its subspaces.

    Returns
    -------
    str

    Example
    -------
    >>> from speechbrain_ext.evaluation.results import Subspace, make_row
    >>> grid = {"factors": {"speaker": 3, "content": 8}, "utterances": 24}
    >>> row = make_row(
    ...     Subspace("joint", "speaker"),
    ...     task="verification",
    ...     condition="recorded",
    ...     measure="eer",
    ...     value=0.1,
    ... )
    >>> card = model_card(
    ...     [row],
    ...     {
    ...         "encoder": "log_mel",
    ...         "layers": [0],
    ...         "seed": 1,
    ...         "grid": grid,
    ...         "test_grid": grid,
    ...     },
    ...     "joint",
    ...     ["speaker"],
    ... )
    >>> "| joint    | 10.00   |" in card
    True
    """
    chance = select(rows, task="content", measure="chance")
    # Heads other than the recommended are fitted to what the network is.
    used = "augmented_takes" if name == "recommended" else "network_takes"
    takes = about.get(used)
    chosen = about.get("chosen") if name == "recommended" else None
    lines = [f"- {choice_line(*one)}\n" for one in (chosen or {}).items()]
    return _CARD.format(
        smoke=f"\n**{SMOKE}**\n" if about.get("smoke_run") else "",
        tags=", ".join(["speech-embeddings", *subspaces]),
        name=name,
        encoder=about["encoder"],
        layers=", ".join(map(str, about["layers"])),
        subspaces=" and ".join(f"`{subspace}`" for subspace in subspaces),
        first=subspaces[0],
        adapting=(
            'model = model.adapt("folder of audio")'
            if name == "recommended"
            else 'model.estimate_statistics("folder of audio")'
        ),
        grid=_grid(about["grid"]),
        takes=f", with {takes} augmented take(s) of each" if takes else "",
        seed=about["seed"],
        chosen="".join(["\nChosen:\n\n", *lines]) if lines else "",
        test=_grid(about["test_grid"]),
        table=main_table(select(rows, system=("baseline", name))),
        chance=format_number(chance[0]["value"] if chance else None),
    )


def adaptation_card(source, hours, adapted, false_accepts):
    """The section of a card on the recordings that a model was adapted to.

    Arguments
    ---------
    source : speechbrain_ext.processing.discriminants.Source
        The recordings.
    hours : float
        Their length.
    adapted : speechbrain_ext.processing.adaptation.Adapted
        What they made of the head.
    false_accepts : float
        Rate of false acceptance of the thresholds.

    Returns
    -------
    str
    """
    rows = [
        {
            "subspace": factor,
            "earlier data weigh": choice["weight"],
            "shrinkage": choice["shrinkage"],
            "EER without labels, %": f"{100 * choice['eer']:.1f}",
            "threshold": f"{adapted.thresholds[factor][false_accepts]:.3f}",
        }
        for factor, choice in adapted.choices.items()
    ]
    table = tabulate(rows, headers="keys", tablefmt="github")
    return _ADAPTED.format(
        name=source.name,
        count=source.count,
        hours=hours,
        table=table,
        rate=100 * false_accepts,
    )


def _grid(grid):
    """A grid in words."""
    factors = [f"{count} {name}s" for name, count in grid["factors"].items()]
    return f"{' x '.join(factors)}, {grid['utterances']} utterances"
