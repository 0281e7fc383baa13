"""Discriminant directions from the covariances of several data sets.

A linear discriminant analysis asks two things of the data: what a factor
changes (the covariance between its values) and what everything else changes
(the covariance within them). A labelled grid tells both by its labels;
unlabelled recordings tell them by interventions, of which a view of each
recording is encoded. Covariances of several data sets can be added.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.linalg import eigh

from speechbrain_ext.lobes.linear_subspaces import LinearSubspaces
from speechbrain_ext.lobes.model_files import check_file
from speechbrain_ext.lobes.subspaces import FeatureStandardiser, load_state
from speechbrain_ext.processing.scatter import Rows, Scatter, covariance, shrunk
from speechbrain_ext.utils.errors import InputError


@dataclass
class Source:
    """Covariances of one data set, in the units of the features.

    Arguments
    ---------
    name : str
        Which data set.
    count : int
        Its utterances.
    mean, std : numpy.ndarray
        Of the features, [layers, dim].
    between, within : dict
        Factor -> covariance of what it changes, and of what else does:
        [D, D] over the layers that the factor is read from, flattened.
    channel : dict
        Factor -> covariance of what random channels change, where a grid has
        takes through them.
    ranks : dict
        Factor -> dimensions that can tell its values.
    """

    name: str
    count: int
    mean: np.ndarray
    std: np.ndarray
    between: dict = field(default_factory=dict)
    within: dict = field(default_factory=dict)
    channel: dict = field(default_factory=dict)
    ranks: dict = field(default_factory=dict)


class Sources(list):
    """Sources that a head was fitted to, as one file of an export.

    Example
    -------
    >>> path = getfixture("tmp_path") / "sources.ckpt"
    >>> one = Source("grid", 9, np.zeros((1, 2)), np.ones((1, 2)))
    >>> one.between["speaker"] = np.array([[2.0, 1], [1, 3]])
    >>> Sources([one]).save(path)
    >>> Sources().load(path)[0].between["speaker"].tolist()
    [[2.0, 1.0], [1.0, 3.0]]
    """

    def save(self, path):
        """Write them as float32, of each covariance one triangle."""
        torch.save(
            [
                vars(source)
                | {name: _tensor(getattr(source, name)) for name in MEANS}
                | {
                    name: {
                        factor: _tensor(matrix[np.tril_indices(len(matrix))])
                        for factor, matrix in getattr(source, name).items()
                    }
                    for name in COVARIANCES
                }
                for source in self
            ],
            path,
        )

    def load(self, path, digest=None):
        """Read them in place of these; returns itself.

        Raises
        ------
        InputError
            If the file is another one, or damaged.
        """
        check_file(path, digest)
        try:
            self[:] = [_source(state) for state in load_state(path)]
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path} does not hold sources: {error!r}")
        return self


MEANS = ("mean", "std")
COVARIANCES = ("between", "within", "channel")


def _tensor(array):
    """An array as it is saved."""
    return torch.tensor(np.asarray(array), dtype=torch.float32)


def _source(state):
    """A source as it was saved."""
    for name in MEANS:
        state[name] = state[name].double().numpy()
    for name in COVARIANCES:
        state[name] = {
            factor: _square(packed.double().numpy())
            for factor, packed in state[name].items()
        }
    return Source(**state)


def _square(triangle):
    """A symmetric matrix from its lower triangle."""
    size = int(np.sqrt(2 * len(triangle)))
    matrix = np.zeros((size, size))
    matrix[np.tril_indices(size)] = triangle
    return matrix + np.tril(matrix, -1).T


def columns_of(factor, layers, shape):
    """Columns of some layers in features that are flattened.

    Arguments
    ---------
    factor : str
        For the message.
    layers : list of int
        Positions among the layers. Default: all.
    shape : tuple of int
        (layers, dim).

    Raises
    ------
    InputError
        If there is no such layer.

    Example
    -------
    >>> columns_of("speaker", [-1], (2, 3)).tolist()
    [3, 4, 5]
    """
    columns = np.arange(np.prod(shape)).reshape(shape)
    try:
        return columns[slice(None) if layers is None else layers].ravel()
    except IndexError:
        raise InputError(
            f"layers {layers} of factor '{factor}': there are {shape[0]}, "
            "counted from 0 among those that were chosen"
        )


def grid_source(takes, labels, layers=None, name="grid"):
    """What a labelled grid tells of its factors, and of random channels.

    What a channel changes is the covariance of the differences between the
    same utterance through a channel and as recorded.

    Arguments
    ---------
    takes : torch.Tensor
        [takes, utterances, layers, dim]: as recorded, then the same
        utterances through random channels. Without the latter, the channel
        is left out.
    labels : dict
        Factor -> its value for each utterance.
    layers : dict
        Factor -> positions of the layers that it is read from. Default: all.
    name : str
        Of the source.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        With NaN features, labels that do not fit, a factor of one value, or a
        layer that is not there.

    Example
    -------
    >>> takes = torch.randn(2, 12, 1, 5)
    >>> grid_source(takes, {"speaker": list("aaabbbcccddd")}).ranks
    {'speaker': 3}
    """
    if not labels:
        raise InputError("no factor to make a subspace for")
    count, *shape = takes.shape[1:]
    found = FeatureStandardiser(shape).fit(takes[0])
    mean, std = found.mean.double().numpy(), found.std.double().numpy()
    source = Source(name, count, mean, std)
    alike = {}  # layers -> values of the factors that are read from them
    for factor, values in labels.items():
        positions = (layers or {}).get(factor)
        columns = columns_of(factor, positions, shape)
        read = tuple(columns[:: shape[1]] // shape[1])
        alike.setdefault(read, {})[factor] = values
    for read, values in alike.items():
        rows = Rows(takes[0], read)
        scatter = Scatter(rows.less(mean[list(read)].ravel()), values)
        for factor, counts in scatter.counts.items():
            source.ranks[factor] = len(counts) - 1
            source.within[factor] = scatter.within(factor)
            source.between[factor] = scatter.between(factor)
        # What channels change
        changes = [
            covariance(_moved(Rows(take, read), rows), about_mean=True)
            for take in takes[1:]
        ]
        if changes:
            channel = sum(changes) / len(changes)
            source.channel |= dict.fromkeys(values, channel)
    return source


def _moved(rows, others):
    """Differences of rows, in blocks."""
    return (one - other for one, other in zip(rows, others))


def recordings_source(
    recorded, views, differ_in, chosen, layers=None, rows=None, name="own"
):
    """What unlabelled recordings tell, by interventions on each of them.

    An intervention changes one factor of a recording; the mean square of what
    it changes is the covariance of that factor. Two recordings hardly ever
    share their value of ``differ_in``, so their total covariance stands for
    that factor; not within the others, as recordings differ in these too.

    Arguments
    ---------
    recorded : array
        [N, all layers, dim] of the recordings; may be memory-mapped.
    views : dict
        Factor -> arrays as that, each of other draws of the intervention on it.
    differ_in : str
        The factor that recordings are taken to differ in.
    chosen : list of int
        Layers that the head takes.
    layers : dict
        Factor -> positions among them that a subspace is read from, for all
        factors that get one. Default: all layers, for all factors that can.
    rows : array
        Which recordings. Default: all.
    name : str
        Of the source.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        With NaN features, recordings that are all the same, a layer that is
        not there, or an intervention that changes none of them.

    Example
    -------
    >>> recorded = np.random.randn(9, 3, 4)
    >>> views = {"content": [recorded + 1], "channel": [recorded + 2]}
    >>> own = recordings_source(recorded, views, "speaker", [0, 2])
    >>> {factor: covariance.shape for factor, covariance in own.within.items()}
    {'speaker': (8, 8), 'content': (8, 8), 'channel': (8, 8)}
    """
    rows = np.arange(len(recorded)) if rows is None else np.sort(rows)
    shape = len(chosen), recorded.shape[2]
    found = FeatureStandardiser(shape).fit(
        torch.from_numpy(np.asarray(recorded)[np.ix_(rows, chosen)])
    )
    mean, std = found.mean.double().numpy(), found.std.double().numpy()
    source = Source(name, len(rows), mean, std)
    can = dict.fromkeys([differ_in, *views])
    measured = {}  # of layers that several factors are read from, once
    for factor, positions in (layers or can).items():
        if factor not in can:
            continue
        columns = columns_of(factor, positions, shape)
        if tuple(columns) not in measured:
            read = np.asarray(chosen)[positions or slice(None)]
            measured[tuple(columns)] = _changes(
                recorded, views, read, rows, mean.ravel()[columns]
            )
        total, changes = measured[tuple(columns)]
        own_change = changes.get(factor)
        source.between[factor] = total if factor == differ_in else own_change
        others = [one for other, one in changes.items() if other != factor]
        source.within[factor] = sum(others, 0.0 * total)
        source.ranks[factor] = len(rows) - 1
    return source


def _changes(recorded, views, read, rows, centre):
    """Covariance of recordings, and of what each intervention changes."""
    originals = Rows(recorded, read, rows)
    total = covariance(originals.less(centre))
    changes = {
        other: sum(
            covariance(_moved(Rows(view, read, rows), originals))
            for view in drawn
        )
        / len(drawn)
        for other, drawn in views.items()
    }
    for other, change in changes.items():
        # Encoded in other batches the same is not quite the same.
        if not np.trace(change) > 1e-8 * np.trace(total):
            raise InputError(
                f"The intervention on '{other}' changes nothing in these "
                "recordings: they are too short for it (a crop keeps half "
                "a second), silent, or it does nothing; give others"
            )
    return total, changes


def discriminants(within, between, dims, shrinkage, floor=0.0):
    """Directions of most variance between per variance within.

    Arguments
    ---------
    within, between : array
        Covariances [D, D].
    dims : int
        Directions wanted.
    shrinkage, floor : float
        Of ``within``, see :func:`~speechbrain_ext.processing.scatter.shrunk`.

    Returns
    -------
    numpy.ndarray
        [min(dims, D), D], best first; the shrunk covariance of the projection
        is the identity.

    Raises
    ------
    InputError
        With another shrinkage.

    Example
    -------
    >>> discriminants(np.diag([1.0, 4]), np.diag([9.0, 9]), 1, 0.0).round(2)
    array([[1., 0.]])
    """
    size, within = len(within), shrunk(within, shrinkage, floor)
    wanted = [max(size - dims, 0), size - 1]
    axes = eigh(between, within, subset_by_index=wanted)[1][:, ::-1].T
    return signed(axes)


def signed(directions):
    """Directions [d, D] whose largest entries are positive.

    Of an eigenvector another machine may find the negative.

    Example
    -------
    >>> signed(np.array([[1.0, -2.0]])).tolist()
    [[-1.0, 2.0]]
    """
    largest = np.abs(directions).argmax(axis=1)[:, None]
    return directions * np.sign(np.take_along_axis(directions, largest, axis=1))


def source_directions(
    sources, weights, factor, layers, dims, shrinkage, channel_weight=0.0
):
    """Directions of one factor, of features standardised as the last source.

    Arguments
    ---------
    sources : list of Source
        Those that know nothing of the factor are left out.
    weights : list of float
        One for each.
    factor : str
        The factor.
    layers : list of int
        Positions of the layers that it is read from; None for all.
    dims : int
        Dimensions wanted, at most as many as the sources can tell; None for
        all.
    shrinkage : float
        See :func:`discriminants`.
    channel_weight : float
        Of what random channels change in grids, which counts as variance
        within the values.

    Returns
    -------
    numpy.ndarray
        [dims, all layers * dim], 0 for layers that it is not read from.

    Raises
    ------
    InputError
        If sources have the factor in other layers, or with another shrinkage.

    Example
    -------
    >>> takes = torch.randn(1, 12, 1, 5)
    >>> grid = grid_source(takes, {"speaker": list("aaabbbcccddd")})
    >>> source_directions([grid], [1], "speaker", None, 9, 0.3).shape
    (3, 5)
    """
    std = sources[-1].std
    columns = columns_of(factor, layers, std.shape)
    scale = np.outer(std.ravel()[columns], std.ravel()[columns])
    used = [
        (source, weight)
        for source, weight in zip(sources, weights, strict=True)
        if weight > 0 and factor in source.between
    ]
    for source, _ in used:
        if len(source.within[factor]) != len(columns):
            raise InputError(
                f"The source '{source.name}' has '{factor}' in "
                f"{len(source.within[factor])} dimensions, expected "
                f"{len(columns)}: layers of the factor must be the same "
                "everywhere"
            )
    within = sum(
        w
        * (
            source.within[factor]
            + channel_weight * source.channel.get(factor, 0.0)
        )
        for source, w in used
    )
    within = within / scale
    between = sum(w * source.between[factor] for source, w in used) / scale
    ranks = sum(source.ranks[factor] for source, _ in used)
    dims = ranks if dims is None else min(dims, ranks)
    # A floor, for factors that leave no variance within their values.
    floor = 1e-6 * np.trace(within + between) / len(within)
    found = discriminants(within, between, dims, shrinkage, floor)
    directions = np.zeros((len(found), std.size))
    directions[:, columns] = found
    return directions


def fit_sources(
    sources, weights, dims, shrinkage, layers=None, channel_weight=0.0
):
    """A head with one subspace for each factor that a source knows.

    Arguments
    ---------
    sources : list of Source
        The features are standardised as the last one.
    weights : dict
        Factor -> a weight for each source.
    dims : dict
        Factor -> dimensions wanted; all, if it is not named.
    shrinkage : dict
        Factor -> see :func:`discriminants`.
    layers : dict
        Factor -> positions of the layers that it is read from. Default: all.
    channel_weight : float
        See :func:`source_directions`.

    Returns
    -------
    LinearSubspaces

    Example
    -------
    >>> takes = torch.randn(1, 12, 1, 5)
    >>> grid = grid_source(takes, {"speaker": list("aaabbbcccddd")})
    >>> fit_sources([grid], {"speaker": [1]}, {}, {"speaker": 0.3}).widths
    {'speaker': 3}
    """
    directions = {
        factor: source_directions(
            sources,
            weights[factor],
            factor,
            (layers or {}).get(factor),
            dims.get(factor),
            shrinkage[factor],
            channel_weight,
        )
        for factor in weights
    }
    return make_head(sources[-1].mean, sources[-1].std, directions, sources)


def make_head(mean, std, directions, sources=(), biases=None):
    """A head that standardises, then projects.

    Arguments
    ---------
    mean, std : array
        [layers, dim].
    directions : dict
        Subspace -> [dims, layers * dim].
    sources : list of Source
        What they come from, kept as ``head.sources`` for an export.
    biases : dict
        Subspace -> [dims], where it is not 0.

    Returns
    -------
    LinearSubspaces
    """
    widths = {name: len(weight) for name, weight in directions.items()}
    head = LinearSubspaces(mean.shape, widths)
    head.standardiser.mean.copy_(torch.as_tensor(mean))
    head.standardiser.std.copy_(torch.as_tensor(std))
    for name, weight in directions.items():
        bias = (biases or {}).get(name, np.zeros(len(weight)))
        head.set_projection(name, weight, bias)
    head.sources = Sources(sources)
    return head.requires_grad_(False).eval()
