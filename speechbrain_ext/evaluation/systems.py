"""Systems side by side: heads with a name, on the same features."""

import copy

import torch

from speechbrain_ext.evaluation.results import Subspace
from speechbrain_ext.lobes.subspaces import BaselineHead, FeatureStandardiser
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.processing.closed_form import (
    grid_lda,
    pca_subspaces,
    random_subspaces,
)
from speechbrain_ext.utils.files import digest

# Enough for an EER to 0.01 points; more only cost time.
MAX_TRIALS = 500_000
# Fewer utterances make poor deviations of some hundred dimensions.
MIN_STATISTICS = 50


def name_systems(heads, encoder, layers, seed):
    """Heads of one run as systems.

    Arguments
    ---------
    heads : dict
        Name -> module.
    encoder : str
        What tables call the encoder.
    layers : list of int
        Its layers that the heads take.
    seed : int
        Of the training; a baseline is the same for all seeds, and has none.

    Returns
    -------
    dict
        :class:`~speechbrain_ext.evaluation.results.Subspace`, without the name
        of a subspace -> module.

    Example
    -------
    >>> list(name_systems({"baseline": BaselineHead()}, "log_mel", [2, 4], 1))
    [Subspace(system='baseline', subspace='', encoder='log_mel', \
layers='2+4', seed='')]
    """
    layers = "+".join(map(str, layers))
    seed = "" if seed is None else seed
    return {
        Subspace(
            name,
            "",
            encoder,
            layers,
            "" if isinstance(head, BaselineHead) else seed,
        ): head
        for name, head in heads.items()
    }


def count_values(labels):
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
    >>> count_values({"speaker": ["a", "a", "b"]})
    {'factors': {'speaker': 2}, 'utterances': 3}
    """
    counts = {factor: len(set(values)) for factor, values in labels.items()}
    return {
        "factors": counts,
        "utterances": len(next(iter(labels.values()))),
    }


@torch.no_grad()
def embed(head, features, batch_size=4096):
    """Subspaces of many utterances.

    Arguments
    ---------
    head : torch.nn.Module
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
    >>> embed(BaselineHead(["all"]), torch.ones(5, 1, 2))["all"].shape
    torch.Size([5, 2])
    """
    head.eval()
    # Buffers, because a baseline has no parameters.
    tensors = [*head.parameters(), *head.buffers()]
    device = tensors[0].device if tensors else "cpu"
    parts = [
        head(batch.float().to(device)) for batch in features.split(batch_size)
    ]
    return {
        name: torch.cat([part[name] for part in parts]).float().cpu()
        for name in parts[0]
    }


def embed_systems(systems, features):
    """Vectors of all subspaces of all systems, equal ones of a system once.

    Arguments
    ---------
    systems : dict
        Of :func:`name_systems`, on the same features.
    features : torch.Tensor
        Shape [utterances, layers, dim].

    Returns
    -------
    dict
        :class:`~speechbrain_ext.evaluation.results.Subspace` -> [N, D]. Where
        all subspaces of a system are the same, or its only one is that of a
        baseline, the subspace has no name.

    Example
    -------
    >>> heads = {"baseline": BaselineHead(["speaker", "content"])}
    >>> systems = name_systems(heads, "log_mel", [0], 1)
    >>> [origin.label for origin in embed_systems(systems, torch.ones(5, 1, 2))]
    ['baseline']
    """
    vectors = {}
    for origin, head in systems.items():
        found = embed(head, features)
        first, *others = found.values()
        same = all(torch.equal(first, other) for other in others)
        if same and (others or isinstance(head, BaselineHead)):
            found = {"": first}
        vectors |= {
            origin._replace(subspace=subspace): one
            for subspace, one in found.items()
        }
    return vectors


def baseline_heads(training):
    """The pooled features as they are, and standardised.

    Arguments
    ---------
    training : torch.Tensor
        [utterances, layers, dim] that the statistics are taken from.

    Returns
    -------
    dict
        ``baseline`` and ``baseline_standardised``, each a
        :class:`speechbrain_ext.lobes.subspaces.BaselineHead`.

    Example
    -------
    >>> list(baseline_heads(torch.randn(5, 1, 2)))
    ['baseline', 'baseline_standardised']
    """
    standardiser = FeatureStandardiser(training.shape[1:]).fit(training)
    return {
        "baseline": BaselineHead(),
        "baseline_standardised": BaselineHead(standardiser=standardiser),
    }


def closed_form_heads(features, labels, widths, seed=0):
    """Closed forms on a grid, to compare with.

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
    >>> heads = closed_form_heads(features, labels, {"speaker": 4})
    >>> {k: v(features)["speaker"].shape[1] for k, v in heads.items()}
    {'grid_lda': 2, 'pca': 4, 'random_projection': 4}
    """
    dims = {factor: widths[factor] for factor in labels}
    return {
        "grid_lda": grid_lda(features, labels, dims),
        "pca": pca_subspaces(features, dims),
        "random_projection": random_subspaces(features, dims, seed),
    }


def threshold_trials(labels, factors, seed=0, most=MAX_TRIALS):
    """Pairs for the threshold of each factor, from labels alone.

    Arguments
    ---------
    labels : dict
        Factor -> [N] values. A pair is a target of a factor when it has the
        same value; the values of the next factor differ in all pairs, as
        verification is judged.
    factors : list of str
        Which of them get trials.
    seed : int
        Of the selection of pairs, where there are too many.
    most : int
        Pairs of each kind at most.

    Returns
    -------
    dict
        Factor -> Trials.

    Raises
    ------
    InputError
        If a factor has no pair of one kind.

    Example
    -------
    >>> labels = {"speaker": [0, 0, 1, 1]}
    >>> len(threshold_trials(labels, ["speaker"])["speaker"])
    6
    """
    trials = {}
    for factor in factors:
        others = [name for name in labels if name != factor]
        trials[factor] = generate_trials(
            labels[factor],
            labels[others[0]] if others else None,
            max_targets=most,
            max_nontargets=most,
            seed=seed,
        )
    return trials


def equal_error_thresholds(head, features, trials):
    """Cosine threshold of each subspace where both errors are equal.

    Arguments
    ---------
    head : torch.nn.Module
        [B, layers, dim] -> subspace -> [B, D].
    features : torch.Tensor
        Shape [N, layers, dim], e.g. of the validation utterances.
    trials : dict
        Of :func:`threshold_trials`, on these utterances.

    Returns
    -------
    dict
        Factor -> threshold, for the factors that have a subspace.

    Example
    -------
    >>> features = torch.eye(2)[[0, 0, 1, 1]].unsqueeze(1)
    >>> trials = threshold_trials({"speaker": [0, 0, 1, 1]}, ["speaker"])
    >>> equal_error_thresholds(BaselineHead(["speaker"]), features, trials)
    {'speaker': 0.5}
    """
    return {
        factor: equal_error_rate(
            trials[factor].score(vectors), trials[factor].label
        )[1]
        for factor, vectors in embed(head, features).items()
        if factor in trials
    }


def adapted(head, statistics):
    """A copy of a head with the input statistics of a target domain.

    Arguments
    ---------
    head : torch.nn.Module
        With ``fit_statistics``; one that does not standardise stays as it is.
    statistics : torch.Tensor
        [utterances, layers, dim] of the target domain.

    Returns
    -------
    torch.nn.Module

    Example
    -------
    >>> from speechbrain_ext.lobes.linear_subspaces import LinearSubspaces
    >>> head = LinearSubspaces([1, 2], {"speaker": 1})
    >>> moved = adapted(head, torch.tensor([[[1.0, 2]], [[3.0, 6]]]))
    >>> moved.standardiser.mean.tolist(), head.standardiser.mean.tolist()
    ([[2.0, 4.0]], [[0.0, 0.0]])
    """
    head = copy.deepcopy(head)
    head.fit_statistics(statistics)
    return head


def group_exports(models):
    """Exports that take the same features, so that these are made once.

    Arguments
    ---------
    models : list of speechbrain_ext.inference.SubspaceEncoder
        Exports.

    Returns
    -------
    list of list
        The same, a group for each encoder and choice of layers.
    """
    groups = {}
    for model in models:
        module = model.mods.embedding_model
        key = digest([module.encoder.identity, module.layers])
        groups.setdefault(key, []).append(model)
    return list(groups.values())


def export_systems(models, statistics=None, suffix=""):
    """Exports as systems, below the pooled features that they take.

    Arguments
    ---------
    models : list of speechbrain_ext.inference.SubspaceEncoder
        Exports of one encoder and choice of layers.
    statistics : torch.Tensor
        [utterances, layers, dim] of a target domain that takes the place of
        the training grid in all standardisation. Default: the grid's, which
        the exports carry.
    suffix : str
        Of the names of the baselines, where there are several encoders.

    Returns
    -------
    dict
        As of :func:`name_systems`.
    """
    module = models[0].mods.embedding_model
    encoder = models[0].hparams.encoder_label
    standardised = f"baseline_standardised{suffix}"
    baselines = {f"baseline{suffix}": BaselineHead()}
    if statistics is not None:
        both = baseline_heads(statistics)
        baselines[standardised] = both["baseline_standardised"]
    systems = {}
    for model in models:
        head, name = model.mods.embedding_model.network, model.hparams.name
        seed = model.hparams.seed
        if statistics is not None:
            head = adapted(head, statistics)
        elif head.standardise and not any(
            torch.equal(head.standardiser.mean, other.standardiser.mean)
            and torch.equal(head.standardiser.std, other.standardiser.std)
            for other in list(baselines.values())[1:]
        ):
            # Exports of another grid carry other statistics: another row.
            own = standardised
            for more in (name, seed):
                own += f"_{more}" if own in baselines else ""
            baselines[own] = BaselineHead(standardiser=head.standardiser)
        systems |= name_systems({name: head}, encoder, module.layers, seed)
    return name_systems(baselines, encoder, module.layers, None) | systems


def export_thresholds(models):
    """What exports decide by.

    Arguments
    ---------
    models : list of speechbrain_ext.inference.SubspaceEncoder
        Exports.

    Returns
    -------
    dict
        (system, seed, subspace) -> threshold.
    """
    return _of_subspaces(models, "thresholds")


def export_calibration(models):
    """What makes scores of exports log-likelihood ratios.

    Arguments
    ---------
    models : list of speechbrain_ext.inference.SubspaceEncoder
        Exports.

    Returns
    -------
    dict
        (system, seed, subspace) -> (scale, offset), of those that have it.
    """
    return _of_subspaces(models, "calibration")


def _of_subspaces(models, option):
    return {
        (model.hparams.name, model.hparams.seed, subspace): value
        for model in models
        for subspace, value in getattr(model.hparams, option).items()
    }


def statistics_utterances(domain, every, evaluated, trials=None):
    """Which unlabelled utterances the target domain is estimated on.

    Utterances that are not evaluated, where there are enough of them;
    otherwise the evaluated ones themselves. That is transductive: no label is
    used, but it is said.

    Arguments
    ---------
    domain : str
        ``"grid"`` or ``"target"``.
    every : list of str
        All utterances at hand.
    evaluated : list of str
        Those that the trials number.
    trials : list of Trials
        Where only verification is measured: evaluated utterances that are in
        none of them may then be used too.

    Returns
    -------
    ids : list of str
        Empty for ``"grid"``.
    description : str
        For the report.

    Example
    -------
    >>> every = [f"u{i}" for i in range(MIN_STATISTICS + 2)]
    >>> statistics_utterances("target", every, every[:2])[1]
    'target: 50 utterances that are not evaluated'
    """
    if domain == "grid":
        return [], "grid"
    used = set(evaluated)
    if trials is not None:
        rows = (row for one in trials for row in {*one.enrol, *one.test})
        used = {evaluated[row] for row in rows}
    free = [key for key in every if key not in used]
    if len(free) >= MIN_STATISTICS:
        what = "not evaluated" if trials is None else "in no trial"
        return free, f"target: {len(free)} utterances that are {what}"
    return evaluated, "target, transductive: the evaluated utterances"
