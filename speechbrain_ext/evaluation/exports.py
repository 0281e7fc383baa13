"""Exports as systems of a report: grouped by encoder, beside baselines."""

import json

import torch

from speechbrain_ext.evaluation.systems import adapted
from speechbrain_ext.evaluation.uncertainty import summarise_seeds
from speechbrain_ext.lobes.subspaces import FeatureStandardiser, PooledFeatures
from speechbrain_ext.utils.errors import InputError

# Fewer utterances make poor deviations of some hundred dimensions.
MIN_STATISTICS = 50


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
    # Baselines have one subspace, whatever the heads have.
    systems = {f"baseline{suffix}": PooledFeatures()}
    name = f"baseline_standardised{suffix}"
    if statistics is not None:
        heads = {n: adapted(head, statistics) for n, head in heads.items()}
        standardiser = FeatureStandardiser(statistics.shape[1:])
        systems[name] = PooledFeatures(
            standardiser=standardiser.fit(statistics)
        )
    else:
        carried = []
        for export, head in heads.items():
            if not head.standardise or any(
                torch.equal(head.standardiser.mean, other.mean)
                and torch.equal(head.standardiser.std, other.std)
                for other in carried
            ):
                continue
            # Exports of another grid carry other statistics: another row.
            own = f"{name}_{export}" if carried else name
            systems[own] = PooledFeatures(standardiser=head.standardiser)
            carried.append(head.standardiser)
    return systems | heads


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
    trials : Trials
        Where only verification is measured: evaluated utterances that are in
        no trial may then be used too.

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
    >>> every = [f"u{i}" for i in range(MIN_STATISTICS + 2)]
    >>> statistics_utterances("target", every, every[:2])[1]
    'target: 50 utterances that are not evaluated'
    """
    if domain == "grid":
        return [], "grid"
    if domain != "target":
        raise InputError(
            f"Unknown domain_statistics '{domain}': expected grid or target"
        )
    used = set(evaluated)
    if trials is not None:
        used = {evaluated[row] for row in {*trials.enrol, *trials.test}}
    free = [key for key in every if key not in used]
    if len(free) >= MIN_STATISTICS:
        what = "not evaluated" if trials is None else "in no trial"
        return free, f"target: {len(free)} utterances that are {what}"
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
