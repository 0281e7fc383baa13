"""Features that a run needs: planned, told, and then encoded."""

import functools

import numpy as np

from speechbrain_ext.dataio.feature_cache import extract_features, missing_hours
from speechbrain_ext.dataio.manifest import subset
from speechbrain_ext.utils.shards import share_of_process


def plan_conditions(
    dataset,
    splits,
    encoder,
    channel,
    takes,
    valid_takes,
    seed,
    label="features",
    **options,
):
    """Features of a grid as recorded, in augmented takes, and across channels.

    What is to be encoded, before any of it is.

    Training and validation utterances get versions through random channels;
    the test utterances get one through channels that no training has seen.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`speechbrain_ext.dataio.manifest.load_manifest`.
    splits : dict
        ``train``, ``valid`` and ``test`` -> IDs.
    encoder : speechbrain_ext.lobes.pooled_encoder.PooledEncoder
        The frozen encoder.
    channel : callable
        Makes a channel from ``seed`` and ``sample_rate``, such as the class
        :class:`speechbrain_ext.augment.channel.RandomChannel`.
    takes : int
        Augmented takes of each training utterance.
    valid_takes : int
        Of them, how many of each validation utterance. (Another number gives
        the caches of these takes another key.)
    seed : int
        Of the channels of the test; the takes have the seeds after it.
    label : str
        First part of the names of the caches.
    **options
        Further arguments of :func:`extract_features`.

    Returns
    -------
    dict
        ``recorded`` (all utterances), ``take1``, ``take2``, ... (training) and
        ``channels`` (test) -> a call of :func:`extract_features` as a
        functools.partial.
    """
    channel = functools.partial(channel, sample_rate=encoder.sample_rate)
    grid_ids = splits["train"] + splits["valid"]
    wanted = {"recorded": (grid_ids + splits["test"], None)}
    for take in range(1, takes + 1):
        ids = grid_ids if take <= valid_takes else splits["train"]
        wanted[f"take{take}"] = (ids, channel(seed=seed + take))
    wanted["channels"] = (splits["test"], channel(seed=seed))
    return {
        name: functools.partial(
            extract_features,
            subset(dataset, ids),
            encoder,
            name=f"{label}-{name}",
            channel=through,
            **options,
        )
        for name, (ids, through) in wanted.items()
    }


def joined(name):
    """A name of features as one word.

    Example
    -------
    >>> joined("take1"), joined(("content", 0))
    ('take1', 'content-0')
    """
    return "-".join(map(str, np.atleast_1d(name)))


def describe_hours(planned):
    """How much of :func:`plan_conditions` is to be encoded, in words.

    Arguments
    ---------
    planned : dict
        Name, or a tuple that is one, -> a call of :func:`extract_features` as
        a functools.partial.

    Returns
    -------
    str
    """
    left = {
        joined(name): missing_hours(*extract.args, **extract.keywords)
        for name, extract in planned.items()
    }
    there = [name for name, hours in left.items() if not hours] or ["nothing"]
    return (
        f"{sum(left.values()):.2f} hours of audio (there already: "
        f"{', '.join(there)})"
    )


def encode_planned(planned, shard=None):
    """Features of a plan: each process encodes its share, all read all.

    They wait for each other by files alone, as calls that are no group do.

    Arguments
    ---------
    planned : dict
        As of :func:`describe_hours`.
    shard : tuple of int
        (index, count): encode the share of one of several calls.

    Returns
    -------
    dict
        Name -> PooledFeatures; None for a shard.

    Example
    -------
    >>> encode_planned({"recorded": lambda: "features"})
    {'recorded': 'features'}
    """
    index, count = share_of_process(shard)
    if shard or count > 1:
        for extract in planned.values():
            extract(shard=(index, count))
    if shard:
        return None
    return {name: extract() for name, extract in planned.items()}
