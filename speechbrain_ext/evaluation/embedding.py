"""Vectors of all systems of an evaluation: of exports and speaker encoders."""

from functools import partial
from typing import NamedTuple

import torch

from speechbrain.utils.distributed import infer_device
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.feature_plans import encode_planned
from speechbrain_ext.dataio.manifest import subset
from speechbrain_ext.evaluation import results, systems
from speechbrain_ext.evaluation.tasks import Embedded
from speechbrain_ext.lobes.encoders import load_speaker_encoder
from speechbrain_ext.lobes.subspaces import BaselineHead
from speechbrain_ext.lobes.trust import trusted
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import run_label


class Source(NamedTuple):
    """Systems that take the same features.

    Arguments
    ---------
    encoder : speechbrain_ext.lobes.pooled_encoder.PooledEncoder
        What makes the features.
    layers : list of int
        Its layers that are taken.
    device : str
        Where it runs.
    systems : callable
        Statistics of a target domain, or None -> systems, as of
        :func:`speechbrain_ext.evaluation.systems.name_systems`.
    is_pooled : bool
        Whether the systems are heads on pooled features, which leakage has
        controls of.
    """

    encoder: object
    layers: list
    device: str
    systems: callable
    is_pooled: bool = True


class Use(NamedTuple):
    """Utterances that are used for one thing."""

    dataset: object
    ids: list


def export_sources(exports):
    """Exports in groups that take the same features.

    Arguments
    ---------
    exports : list of speechbrain_ext.inference.SubspaceEncoder
        Exports.

    Returns
    -------
    list of Source
        Of each group, with the pooled features as its baselines.
    """
    groups = systems.group_exports(exports)
    sources = []
    for number, group in enumerate(groups, 1):
        suffix = f"_{number}" if len(groups) > 1 else ""
        module = group[0].mods.embedding_model
        named = partial(systems.export_systems, group, suffix=suffix)
        sources.append(
            Source(module.encoder, module.layers, group[0].device, named)
        )
    return sources


def speaker_source(encoder, device=None, trust=False):
    """A supervised speaker encoder, as it is, as a system to compare with.

    Arguments
    ---------
    encoder : str or dict
        As of :func:`~speechbrain_ext.lobes.encoders.load_speaker_encoder`.
    device : str
        Where it runs. Default: a GPU where there is one.
    trust : bool
        Whether it may run code of its own, as SpeechBrain's models do.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        If it cannot be loaded, or has several layers.

    Example
    -------
    >>> list(speaker_source("log_mel").systems(None))[0].system
    'log_mel'
    """
    before = trusted.set(trust)
    try:
        model = load_speaker_encoder(encoder)
    finally:
        trusted.reset(before)
    given = {"encoder": encoder} if isinstance(encoder, str) else encoder
    label = run_label(given["encoder"], given.get("encoder_source"))
    # No layer: what is drawn over the layers of an encoder is not this.
    named = systems.name_systems({label: BaselineHead()}, label, [], None)
    device = device or infer_device()
    return Source(model.to(device), [0], device, lambda _: named, False)


def check_names(sources, reference, target=False):
    """Refuse systems that tables could not tell apart, and a reference that
    none will have, before audio is read.

    Arguments
    ---------
    sources : list of Source
        What will be embedded.
    reference : str
        Label of a subspace; None for the first.
    target : bool
        Whether there will be statistics of a target domain.

    Raises
    ------
    InputError
        Naming it.

    Example
    -------
    >>> check_names([speaker_source("log_mel")], "ecapa")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: Unknown reference 'ecapa': there \
are log_mel
    """
    known = []
    for source in sources:
        features = torch.randn(3, len(source.layers), source.encoder.dim)
        named = source.systems(features if target else None)
        known += systems.embed_systems(named, features)
    for origin in known:
        if known.count(origin) > 1:
            raise InputError(
                f"Two speaker_encoders are called '{origin.system}': rename "
                "the folder of one"
            )
    results.find_reference(known, reference)


def embed_all(
    sources, uses, condition, cache_folder, channel=None, shard=None, **options
):
    """Vectors of every system for each use of utterances, in one condition.

    Several processes encode a part of the utterances each.

    Arguments
    ---------
    sources : list of Source
        The systems.
    uses : dict
        Name -> Use: ``test``, and perhaps ``training``, ``cohort`` and
        ``statistics``, of which the last is no use of vectors but of features.
    condition : str
        ``recorded`` or ``channels``.
    cache_folder : str or Path
        Keeps the features.
    channel : callable
        ``channel(sample_rate)``, what each utterance goes through.
    shard : tuple of int
        (index, count): only encode the share of one of several calls.
    **options : object
        Of :func:`~speechbrain_ext.dataio.feature_cache.extract_features`.

    Returns
    -------
    Embedded
        None for a shard.
    """
    vectors = {use: {} for use in uses if use != "statistics"}
    controls, datasets = {}, {}
    for use in uses.values():
        _, every = datasets.setdefault(id(use.dataset), (use.dataset, {}))
        every |= dict.fromkeys(use.ids)
    for source in sources:
        rate = source.encoder.sample_rate
        planned = {
            key: partial(
                extract_features,
                subset(dataset, list(every)),
                source.encoder,
                cache_folder,
                channel=channel and channel(sample_rate=rate),
                device=source.device,
                **options,
            )
            for key, (dataset, every) in datasets.items()
        }
        pooled = encode_planned(planned, shard)
        if shard:
            continue
        features = {
            name: pooled[id(use.dataset)].select(use.ids, source.layers)
            for name, use in uses.items()
        }
        named = source.systems(features.get("statistics"))
        for name, known in vectors.items():
            known |= systems.embed_systems(named, features[name])
        if source.is_pooled:
            controls[next(iter(named))[2:4]] = features["test"]
    return None if shard else Embedded(condition, vectors, controls)
