"""The README.md of an export: what it is, how it did, how to use it.

Its front matter is what the Hugging Face hub reads.
"""

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from tabulate import tabulate

from speechbrain_ext.evaluation.report import (
    CONDITIONS,
    SMOKE,
    choice_line,
    main_table,
)
from speechbrain_ext.evaluation.results import format_number, select
from speechbrain_ext.utils.errors import InputError

# What the metadata say of the results: task -> what it does, and its measure.
TASKS = {
    "verification": ("verification", "eer", "EER, %"),
    "content": ("retrieval", "accuracy", "accuracy, %"),
}
_CARD = """\
---
{metadata}
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
for {rate:g} % of false acceptance on recordings like these. Results further up
are of the head before.

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
        metadata=_metadata(rows, about, name, subspaces).to_yaml(),
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


def _metadata(rows, about, name, subspaces):
    """What the hub reads, with results of each subspace on its own factor."""
    results = [
        EvalResult(
            task_type=f"{row['target']}-{TASKS[row['task']][0]}",
            dataset_type=row["data"],
            dataset_name=f"{row['data']}, {CONDITIONS[row['condition']]}",
            dataset_config=row["condition"],
            dataset_split="test",
            metric_type=row["measure"],
            metric_name=TASKS[row["task"]][2],
            metric_value=round(100 * row["value"], 2),
        )
        for task, (_, measure, _) in TASKS.items()
        for row in select(
            rows, system=name, task=task, measure=measure, group=""
        )
        if row["subspace"] == row["target"]
    ]
    measures = {result.metric_type: None for result in results}
    model = about.get("encoder_identity", {}).get("model", {})
    return ModelCardData(
        library_name="speechbrain",
        pipeline_tag="feature-extraction",
        tags=["speech-embeddings", *subspaces],
        base_model=model.get("source"),  # of a hub model
        datasets=sorted({row["data"] for row in rows} - {""}) or None,
        metrics=[*measures] or None,
        model_name=f"{name} on {about['encoder']}" if results else None,
        eval_results=results or None,
    )


def read_card(text):
    """A card, with its front matter as data.

    Arguments
    ---------
    text : str
        Of ``README.md``; may be empty.

    Returns
    -------
    huggingface_hub.ModelCard

    Raises
    ------
    InputError
        If the front matter is not what the hub takes.

    Example
    -------
    >>> read_card("---\\nlicense: mit\\n---\\n# A head\\n").data.license
    'mit'
    >>> read_card("---\\nlicense: {\\n---\\n")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: The front matter of README.md ...
    """
    text = text if text.startswith("---") else f"---\n{{}}\n---\n{text}"
    try:
        return ModelCard(text)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"The front matter of README.md cannot be read: {reason}"
        )


def adapted_card(card, source, hours, adapted, false_accepts):
    """A card with a section on the recordings that its model was adapted to.

    Arguments
    ---------
    card : huggingface_hub.ModelCard
        Of the model before, whose results it no longer claims for itself.
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
    card.data.model_name = card.data.eval_results = card.data.metrics = None
    return str(card) + _ADAPTED.format(
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
