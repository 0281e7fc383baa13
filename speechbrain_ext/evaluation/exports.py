"""Exports as systems of a report: grouped by encoder, beside baselines."""

import json

import numpy as np
import torch

from speechbrain_ext.evaluation.systems import adapted
from speechbrain_ext.evaluation.uncertainty import compare, summarise_seeds
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


def without_seed(name):
    """Name of the system of ``"system@seed subspace"``, for all its seeds.

    Other names stay, such as that of a baseline with an export's statistics.

    Example
    -------
    >>> without_seed("joint@1 speaker"), without_seed("joint speaker")
    ('joint speaker', 'joint speaker')
    """
    system, _, rest = name.partition("@")
    subspace = rest.partition(" ")[2]
    return f"{system} {subspace}" if subspace else name


def first_seeds(named):
    """Of each system only the first seed: enough for a figure.

    Arguments
    ---------
    named : dict
        ``"system@seed subspace"`` or another name -> anything.

    Returns
    -------
    dict
        Some of it, in the same order.

    Example
    -------
    >>> list(first_seeds({"joint@1 speaker": 0, "joint@2 speaker": 0, "b": 0}))
    ['joint@1 speaker', 'b']
    """
    first = {}
    for name in named:
        first.setdefault(without_seed(name), name)
    return {name: named[name] for name in first.values()}


def over_seeds(values, draws=None, reference=None):
    """Results of the same system from several training seeds.

    Arguments
    ---------
    values : dict
        ``"system@seed subspace"`` -> value; names without a seed are left
        out.
    draws : dict, optional
        Name -> [number] values in the same resamples of the speakers, also
        of the reference.
    reference : str
        Name that differences are taken to; one with a seed stands for the
        mean over all its seeds. Default: the first.

    Returns
    -------
    rows : dict
        ``"system subspace"`` -> see
        :func:`~speechbrain_ext.evaluation.uncertainty.summarise_seeds`. With
        draws also ``interval``, ``difference``, ``difference_interval`` and
        ``significant`` of the mean, as in
        :func:`~speechbrain_ext.evaluation.uncertainty.compare`: what other
        speakers would change, given these seeds.

    Example
    -------
    >>> found = over_seeds({"joint@1 speaker": 0.1, "joint@2 speaker": 0.2,
    ...                     "baseline": 0.3})
    >>> {name: row["values"] for name, row in found.items()}
    {'joint speaker': [0.1, 0.2]}
    """
    groups = {}
    for name in values:
        groups.setdefault(without_seed(name), []).append(name)
    rows = {
        system: summarise_seeds([values[name] for name in names])
        for system, names in groups.items()
        if names != [system]
    }
    if draws is None or not rows:
        return rows
    compared = compare(
        {s: np.mean([values[n] for n in names]) for s, names in groups.items()},
        {
            system: np.mean([draws[n] for n in names], axis=0)
            for system, names in groups.items()
        },
        without_seed(next(iter(values)) if reference is None else reference),
    )
    kept = ("interval", "difference", "difference_interval", "significant")
    return {
        system: row | {key: compared[system][key] for key in kept}
        for system, row in rows.items()
    }
