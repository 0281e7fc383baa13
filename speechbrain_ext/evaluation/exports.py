"""Exports as systems of a report: grouped by encoder, beside baselines."""

import json

from speechbrain_ext.evaluation.systems import adapted
from speechbrain_ext.evaluation.uncertainty import summarise_seeds
from speechbrain_ext.lobes.subspaces import FeatureStandardiser, PooledFeatures
from speechbrain_ext.utils.errors import InputError


def by_encoder(exports):
    """Exports that take the same features, so that these are made once.

    Arguments
    ---------
    exports : dict
        Name -> :class:`speechbrain_ext.inference.SubspaceEncoder`.

    Returns
    -------
    list of dict
        The same, a group for each encoder and choice of layers.
    """
    groups = {}
    for name, model in exports.items():
        module = model.mods.embedding_model
        key = json.dumps([module.encoder.identity, module.layers])
        groups.setdefault(key, {})[name] = model
    return list(groups.values())


def systems_of(exports, statistics=None, suffix=""):
    """The pooled features as they are and standardised, and the exports.

    Arguments
    ---------
    exports : dict
        A group of :func:`by_encoder`.
    statistics : torch.Tensor
        [utterances, layers, dim] of a target domain that takes the place of
        the training grid in all standardisation. Default: the grid's, which
        the exports carry.
    suffix : str
        Of the names of the baselines, where there are several encoders.

    Returns
    -------
    dict
        Name -> module, [B, layers, dim] -> subspace -> [B, D].
    """
    heads = {n: m.mods.embedding_model.network for n, m in exports.items()}
    names = next(iter(heads.values())).subspaces
    systems = {f"baseline{suffix}": PooledFeatures(names)}
    carried = [h.standardiser for h in heads.values() if h.standardise]
    if statistics is not None:
        heads = {n: adapted(head, statistics) for n, head in heads.items()}
        carried = [FeatureStandardiser(statistics.shape[1:]).fit(statistics)]
    if carried:
        systems[f"baseline_standardised{suffix}"] = PooledFeatures(
            names, carried[0]
        )
    return systems | heads


def statistics_utterances(domain, every, evaluated, trials):
    """Which unlabelled utterances the target domain is estimated on.

    Those of no trial; where every utterance is in a trial, the evaluated ones
    themselves. That is transductive: no label is used, but it is said.

    Arguments
    ---------
    domain : str
        ``"grid"`` or ``"target"``.
    every : list of str
        All utterances at hand.
    evaluated : list of str
        Those that the trials number.
    trials : Trials
        The trials.

    Returns
    -------
    ids : list of str
        Empty for ``"grid"``.
    description : str
        For the report.

    Raises
    ------
    InputError
        If the domain is neither.

    Example
    -------
    >>> from speechbrain_ext.evaluation.verification import generate_trials
    >>> trials = generate_trials(list("aabb"))
    >>> statistics_utterances("target", list("wxyz12"), list("wxyz"), trials)
    (['1', '2'], 'target: 2 utterances of no trial')
    """
    if domain == "grid":
        return [], "grid"
    if domain != "target":
        raise InputError(
            f"Unknown domain_statistics '{domain}': expected grid or target"
        )
    used = {evaluated[row] for row in {*trials.enrol, *trials.test}}
    free = [key for key in every if key not in used]
    if len(free) > 1:
        return free, f"target: {len(free)} utterances of no trial"
    return evaluated, "target, transductive: the evaluated utterances"


def over_seeds(rows, key="eer"):
    """Results of the same system from several training seeds.

    Arguments
    ---------
    rows : dict
        ``"system@seed subspace"`` -> row; names without a seed are left out.
    key : str
        What of each row.

    Returns
    -------
    dict
        ``"system subspace"`` -> see
        :func:`~speechbrain_ext.evaluation.uncertainty.summarise_seeds`.

    Example
    -------
    >>> found = over_seeds({"joint@1 speaker": {"eer": 0.1},
    ...     "joint@2 speaker": {"eer": 0.2}, "baseline": {"eer": 0.3}})
    >>> {name: row["values"] for name, row in found.items()}
    {'joint speaker': [0.1, 0.2]}
    """
    values = {}
    for name, row in rows.items():
        system, at, rest = name.partition("@")
        if at:
            subspace = rest.partition(" ")[2]
            values.setdefault(f"{system} {subspace}", []).append(row[key])
    return {name: summarise_seeds(found) for name, found in values.items()}
