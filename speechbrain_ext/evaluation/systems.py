"""Systems (maps from pooled features to subspaces) side by side."""

import copy

import torch

from speechbrain_ext.evaluation.closed_form import (
    grid_lda,
    pca_subspaces,
    random_subspaces,
)
from speechbrain_ext.evaluation.plots import plot_score_distributions
from speechbrain_ext.evaluation.report import (
    evaluate_system,
    format_table,
    write_json,
)
from speechbrain_ext.evaluation.verification import (
    equal_error_rate,
    generate_trials,
)
from speechbrain_ext.lobes.subspaces import FeatureStandardiser, PooledFeatures

# Enough for an EER to 0.01 points; more only cost time.
MAX_TRIALS = 500_000


@torch.no_grad()
def embed(system, features, batch_size=4096):
    """Subspaces of many utterances.

    Arguments
    ---------
    system : torch.nn.Module
        [B, layers, dim] -> subspace -> [B, D].
    features : torch.Tensor
        Shape [utterances, layers, dim].
    batch_size : int
        Utterances at a time.

    Returns
    -------
    dict
        Subspace -> torch.Tensor of shape [utterances, D], on the CPU.

    Example
    -------
    >>> from speechbrain_ext.lobes.subspaces import PooledFeatures
    >>> embed(PooledFeatures(["all"]), torch.ones(5, 1, 2))["all"].shape
    torch.Size([5, 2])
    """
    system.eval()
    # Buffers, because a baseline has no parameters.
    tensors = [*system.parameters(), *system.buffers()]
    device = tensors[0].device if tensors else "cpu"
    parts = [
        system(batch.float().to(device)) for batch in features.split(batch_size)
    ]
    return {
        name: torch.cat([part[name] for part in parts]).float().cpu()
        for name in parts[0]
    }


def baseline_systems(subspaces, training):
    """The pooled features as they are, and standardised.

    Arguments
    ---------
    subspaces : list of str
        Names under which they are returned.
    training : torch.Tensor
        [utterances, layers, dim] that the statistics are taken from.

    Returns
    -------
    dict
        ``baseline`` and ``baseline_standardised``, each a
        :class:`speechbrain_ext.lobes.subspaces.PooledFeatures`.

    Example
    -------
    >>> list(baseline_systems(["speaker"], torch.randn(5, 1, 2)))
    ['baseline', 'baseline_standardised']
    """
    standardiser = FeatureStandardiser(training.shape[1:]).fit(training)
    return {
        "baseline": PooledFeatures(subspaces),
        "baseline_standardised": PooledFeatures(subspaces, standardiser),
    }


def closed_form_systems(features, labels, widths, seed=0):
    """Closed forms on a grid, as systems beside a trained network.

    Arguments
    ---------
    features : torch.Tensor
        [utterances, layers, dim] of the training grid.
    labels : dict
        Factor -> its value for each utterance.
    widths : dict
        Factor -> dimension of its subspace (an upper bound).
    seed : int
        Of the random projection.

    Returns
    -------
    dict
        ``grid_lda``, ``pca`` and ``random_projection``, each a
        :class:`speechbrain_ext.lobes.linear_subspaces.LinearSubspaces`.

    Example
    -------
    >>> labels = {"speaker": [0, 0, 1, 1, 2, 2]}
    >>> features = torch.randn(6, 1, 5)
    >>> systems = closed_form_systems(features, labels, {"speaker": 4})
    >>> {k: v(features)["speaker"].shape[1] for k, v in systems.items()}
    {'grid_lda': 2, 'pca': 4, 'random_projection': 4}
    """
    dims = {factor: widths[factor] for factor in labels}
    return {
        "grid_lda": grid_lda(features, labels, dims),
        "pca": pca_subspaces(features, list(labels), dims),
        "random_projection": random_subspaces(
            features, list(labels), dims, seed
        ),
    }


def distinct(embedded):
    """Systems and subspaces side by side, equal subspaces once.

    Arguments
    ---------
    embedded : dict
        System -> subspace -> vectors [N, D].

    Returns
    -------
    dict
        ``"system subspace"`` -> vectors, or ``"system"`` where all subspaces
        of a system are the same, or its only one is called ``pooled``.

    Example
    -------
    >>> x = torch.eye(2)
    >>> list(distinct({"raw": {"a": x, "b": x}, "net": {"a": x, "b": 2 * x}}))
    ['raw', 'net a', 'net b']
    """
    named = {}
    for system, subspaces in embedded.items():
        vectors = list(subspaces.values())
        same = all(torch.equal(vectors[0], other) for other in vectors[1:])
        if same and (len(vectors) > 1 or "pooled" in subspaces):
            named[system] = vectors[0]
        else:
            named |= {f"{system} {n}": v for n, v in subspaces.items()}
    return named


def grid_summary(labels):
    """Size of a grid, for a report.

    Arguments
    ---------
    labels : dict
        Factor -> its value for each utterance.

    Returns
    -------
    dict
        ``factors``: factor -> number of values; ``utterances``.

    Example
    -------
    >>> grid_summary({"speaker": ["a", "a", "b"]})
    {'factors': {'speaker': 2}, 'utterances': 3}
    """
    counts = {factor: len(set(values)) for factor, values in labels.items()}
    return {
        "factors": counts,
        "utterances": len(next(iter(labels.values()))),
    }


def write_report(folder, results, scored):
    """``results.json``, a plot of the scores a condition, and the table.

    Arguments
    ---------
    folder : str or Path
        Where to.
    results : dict
        As described in :mod:`speechbrain_ext.evaluation.report`.
    scored : dict
        Condition -> name -> (scores, labels).

    Example
    -------
    >>> write_report(getfixture("tmp_path"), {"systems": {}}, {})
    system  subspace  dim  EER %  shifted  minDCF  shifted  content %  shifted
    --------------------------------------------------------------------------
    <BLANKLINE>
    shifted: each clip through a random channel of its own
    """
    for condition, scores in scored.items():
        plot_score_distributions(
            scores,
            f"{folder}/scores_{condition}.png",
            f"{results.get('encoder')}, {condition}",
        )
    write_json(f"{folder}/results.json", results)
    print(format_table(results))


def evaluate_systems(systems, conditions, speakers, contents, seed=0):
    """Every system in every condition, on the same trials.

    Arguments
    ---------
    systems : dict
        Name -> module, [B, layers, dim] -> subspace -> [B, D].
    conditions : dict
        Condition (``clean``, ``shifted``) -> features [N, layers, dim].
    speakers, contents : sequence
        [N] labels of the utterances; target pairs differ in content.
    seed : int
        Of the selection of trials, where there are too many.

    Returns
    -------
    results : dict
        System -> entry, see :mod:`speechbrain_ext.evaluation.report`.
    scored : dict
        Condition -> name as in :func:`distinct` -> (scores, labels).

    Example
    -------
    >>> from speechbrain_ext.lobes.subspaces import PooledFeatures
    >>> features = torch.eye(2)[[0, 0, 1, 1]].unsqueeze(1)
    >>> results, scored = evaluate_systems(
    ...     {"baseline": PooledFeatures(["speaker"])}, {"clean": features},
    ...     ["a", "a", "b", "b"], [1, 2, 1, 2])
    >>> subspace = results["baseline"]["subspaces"]["speaker"]
    >>> subspace["clean"]["verification"]["eer"]
    0.0
    """
    trials = generate_trials(
        speakers,
        contents,
        max_targets=MAX_TRIALS,
        max_nontargets=MAX_TRIALS,
        seed=seed,
    )
    embedded = {
        condition: {
            name: embed(system, features) for name, system in systems.items()
        }
        for condition, features in conditions.items()
    }
    results = {
        name: evaluate_system(
            {condition: embedded[condition][name] for condition in conditions},
            speakers,
            contents,
            trials,
        )
        for name in systems
    }
    scored = {
        condition: {
            name: (trials.score(vectors), trials.label)
            for name, vectors in distinct(embedded[condition]).items()
        }
        for condition in conditions
    }
    return results, scored


def equal_error_thresholds(system, features, labels, seed=0):
    """Cosine threshold of each subspace where both errors are equal.

    Arguments
    ---------
    system : torch.nn.Module
        [B, layers, dim] -> subspace -> [B, D].
    features : torch.Tensor
        Shape [N, layers, dim], e.g. of the validation utterances.
    labels : dict
        Factor -> [N] values. A pair is a target in the subspace of a factor
        when it has the same value; the values of the next factor differ in
        all pairs.
    seed : int
        Of the selection of pairs, where there are too many.

    Returns
    -------
    dict
        Factor -> threshold, for the factors that have a subspace.

    Example
    -------
    >>> from speechbrain_ext.lobes.subspaces import PooledFeatures
    >>> features = torch.eye(2)[[0, 0, 1, 1]].unsqueeze(1)
    >>> equal_error_thresholds(
    ...     PooledFeatures(["speaker"]), features, {"speaker": [0, 0, 1, 1]})
    {'speaker': 0.5}
    """
    thresholds = {}
    for factor, vectors in embed(system, features).items():
        if factor not in labels:
            continue
        # Across the values of another factor, as verification is judged.
        others = [name for name in labels if name != factor]
        trials = generate_trials(
            labels[factor],
            labels[others[0]] if others else None,
            max_targets=MAX_TRIALS,
            max_nontargets=MAX_TRIALS,
            seed=seed,
        )
        scores = trials.score(vectors)
        thresholds[factor] = equal_error_rate(scores, trials.label)[1]
    return thresholds


def adapted(network, statistics):
    """A copy of a system with the input statistics of a target domain.

    Arguments
    ---------
    network : torch.nn.Module
        With ``fit_statistics``; one that does not standardise stays as it is.
    statistics : torch.Tensor
        [utterances, layers, dim] of the target domain.

    Returns
    -------
    torch.nn.Module

    Example
    -------
    >>> from speechbrain_ext.lobes.linear_subspaces import LinearSubspaces
    >>> network = LinearSubspaces([1, 2], {"speaker": 1})
    >>> moved = adapted(network, torch.tensor([[[1.0, 2]], [[3.0, 6]]]))
    >>> moved.standardiser.mean.tolist(), network.standardiser.mean.tolist()
    ([[2.0, 4.0]], [[0.0, 0.0]])
    """
    network = copy.deepcopy(network)
    network.fit_statistics(statistics)
    return network
