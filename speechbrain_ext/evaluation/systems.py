"""Systems (maps from pooled features to subspaces) side by side."""

import torch

from speechbrain_ext.evaluation.report import evaluate_system
from speechbrain_ext.evaluation.verification import (
    equal_error_rate,
    generate_trials,
)
from speechbrain_ext.lobes.subspaces import FeatureStandardiser

# Enough for an EER to 0.01 points; more only cost time.
MAX_TRIALS = 500_000


class PooledBaseline(torch.nn.Module):
    """The pooled features themselves, the same vector in every subspace.

    Arguments
    ---------
    subspaces : list of str
        Names under which the vector is returned.
    statistics : torch.Tensor
        Features [utterances, layers, dim] whose mean and deviation
        standardise the input. Default: features as they are.

    Example
    -------
    >>> baseline = PooledBaseline(["speaker", "content"])
    >>> baseline(torch.zeros(3, 2, 4))["content"].shape
    torch.Size([3, 8])
    """

    def __init__(self, subspaces, statistics=None):
        super().__init__()
        self.subspaces = list(subspaces)
        self.standardiser = torch.nn.Identity()
        if statistics is not None:
            self.standardiser = FeatureStandardiser(statistics.shape[1:])
            self.standardiser.fit(statistics)

    def forward(self, features):
        """[B, layers, dim] -> subspace -> [B, layers * dim]."""
        vectors = self.standardiser(features).flatten(1)
        return dict.fromkeys(self.subspaces, vectors)


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
    >>> embed(PooledBaseline(["all"]), torch.ones(5, 1, 2))["all"].shape
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
        System -> entry as described in :mod:`speechbrain_ext.evaluation.report`.
    scored : dict
        Condition -> "system subspace" -> (scores, labels).

    Example
    -------
    >>> features = torch.eye(2)[[0, 0, 1, 1]].unsqueeze(1)
    >>> results, scored = evaluate_systems(
    ...     {"baseline": PooledBaseline(["speaker"])}, {"clean": features},
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
    results, scored = {}, {condition: {} for condition in conditions}
    for system_name, system in systems.items():
        embedded = {
            condition: embed(system, features)
            for condition, features in conditions.items()
        }
        results[system_name] = evaluate_system(
            embedded, speakers, contents, trials
        )
        for condition, subspaces in embedded.items():
            for name, vectors in subspaces.items():
                scored[condition][f"{system_name}\n{name}"] = (
                    trials.score(vectors),
                    trials.label,
                )
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
        when it has the same value.
    seed : int
        Of the selection of pairs, where there are too many.

    Returns
    -------
    dict
        Factor -> threshold, for the factors that have a subspace.

    Example
    -------
    >>> features = torch.eye(2)[[0, 0, 1, 1]].unsqueeze(1)
    >>> equal_error_thresholds(
    ...     PooledBaseline(["speaker"]), features, {"speaker": [0, 0, 1, 1]})
    {'speaker': 0.5}
    """
    thresholds = {}
    for factor, vectors in embed(system, features).items():
        if factor not in labels:
            continue
        trials = generate_trials(
            labels[factor],
            max_targets=MAX_TRIALS,
            max_nontargets=MAX_TRIALS,
            seed=seed,
        )
        scores = trials.score(vectors)
        thresholds[factor] = equal_error_rate(scores, trials.label)[1]
    return thresholds
