"""Heads that map pooled features to subspaces, one for each factor."""

from pathlib import Path

import torch

from speechbrain.utils.checkpoints import (
    mark_as_transfer,
    register_checkpoint_hooks,
)
from speechbrain_ext.lobes.model_files import check_file
from speechbrain_ext.utils.errors import InputError

BLOCK = 1024  # utterances in memory at a time, as float64


class FeatureStandardiser(torch.nn.Module):
    """Subtract a mean and divide by a deviation, per layer and dimension.

    Until :meth:`fit` is called it changes nothing.

    Arguments
    ---------
    shape : list of int
        [layers, dim] of the features.

    Example
    -------
    >>> features = 3 * torch.randn(100, 1, 4) + 1
    >>> standardiser = FeatureStandardiser([1, 4]).fit(features)
    >>> bool(standardiser(features).std(dim=0).allclose(torch.ones(1, 4)))
    True
    """

    def __init__(self, shape):
        super().__init__()
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("std", torch.ones(*shape))

    def fit(self, features):
        """Estimate the statistics.

        Arguments
        ---------
        features : torch.Tensor
            Shape [utterances, layers, dim], two utterances or more.

        Returns
        -------
        FeatureStandardiser
            Itself.

        Raises
        ------
        InputError
            If they are fewer, not finite, or all the same.
        """
        if len(features) < 2:
            raise InputError(
                f"Statistics need at least 2 utterances, got {len(features)}"
            )
        # One array: many small ones would scatter the memory of the large.
        bad = torch.empty(len(features), dtype=torch.bool)
        centre, total, squares = None, 0.0, 0.0
        parts = zip(features.detach().split(BLOCK), bad.split(BLOCK))
        for part, is_bad in parts:
            # In double precision, which not every accelerator has.
            part = part.to("cpu", torch.float64, copy=True)
            is_bad.copy_(~part.flatten(1).sum(dim=1).isfinite())
            centre = part.mean(dim=0) if centre is None else centre
            part -= centre  # near the mean, whose square is subtracted below
            total += part.sum(dim=0)
            squares += part.square_().sum(dim=0)
        if bad.any():
            raise InputError(
                f"features: {int(bad.sum())} of {len(bad)} rows have NaN or "
                f"infinite values (first: row {int(bad.nonzero()[0])})"
            )
        mean = total / len(bad)
        std = (squares - total * mean).clamp(min=0) / (len(bad) - 1)
        std, mean = std.sqrt(), centre + mean
        if not (std > 1e-6).any():
            raise InputError(
                f"All {len(features)} utterances have the same features: "
                "statistics need different recordings"
            )
        self.mean.copy_(mean)
        # A dimension that never changes is left alone, not blown up.
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))
        return self

    def forward(self, features):
        """Standardised features, same shape [B, layers, dim]."""
        return (features - self.mean) / self.std


def load_state(path):
    """What ``torch.save`` wrote, where it is tensors and plain values alone.

    Arguments
    ---------
    path : str or Path
        The file. Nothing in it is run.

    Returns
    -------
    object

    Raises
    ------
    InputError
        If there is no such file, or it is damaged, or holds anything else.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.ckpt"
    >>> torch.save({"a": torch.ones(1)}, path)
    >>> load_state(path)
    {'a': tensor([1.])}
    """
    if not Path(path).is_file():
        raise InputError(f"There is no file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # What damaged files raise depends on where the damage is; torch would
    # advise to run what is in them.
    except Exception as error:
        kind = type(error).__name__
        raise InputError(
            f"{path} is damaged, or holds more than weights ({kind}): make it "
            "anew"
        )


def fill(head, state, path):
    """Give a head its weights: all of them, and only these.

    Arguments
    ---------
    head : Head
        Of the same class and configuration as the one that was saved.
    state : dict
        Its weights.
    path : str or Path
        Where they come from, for the message.

    Raises
    ------
    InputError
        If they are of another head.

    Example
    -------
    >>> fill(BaselineHead(), torch.nn.Linear(2, 1).state_dict(), "a.ckpt")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: a.ckpt does not have the weig...
    """
    try:
        head.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise InputError(
            f"{path} does not have the weights of this head: {said}"
        )


@register_checkpoint_hooks
class Head(torch.nn.Module):
    """Base class: pooled features are standardised, then mapped to subspaces.

    A subclass implements ``forward``: [B, layers, dim] -> subspace -> [B, D].

    Arguments
    ---------
    subspaces : list of str
        Names of the subspaces, in order.
    standardiser : torch.nn.Module
        What is done to the features first.
    standardise : bool
        Whether :meth:`fit_statistics` estimates statistics of the input.
    """

    def __init__(self, subspaces, standardiser, standardise):
        super().__init__()
        self.subspaces = list(subspaces)
        self.standardiser, self.standardise = standardiser, standardise

    @mark_as_transfer
    def load(self, path):
        """Load the weights of a file, see :func:`fill`.

        Arguments
        ---------
        path : str or Path
            The file.
        """
        fill(self, load_state(path), path)

    def fit_statistics(self, features):
        """Estimate the input statistics where ``standardise`` is on.

        Arguments
        ---------
        features : torch.Tensor
            Shape [utterances, layers, dim].
        """
        if self.standardise:
            self.standardiser.fit(features)


def load_weights(head, path, digest=None):
    """Load the weights of an exported head, see :func:`fill`.

    Arguments
    ---------
    head : Head
        As of :func:`fill`.
    path : str or Path
        The file.
    digest : str
        Its SHA-256. Default: not checked.

    Raises
    ------
    InputError
        If the file is another one, damaged, or of another head.
    """
    check_file(path, digest)
    head.load(path)


class SubspaceNetwork(Head):
    """A multi-layer perceptron whose output is cut in one slice per factor.

    The reference configuration of Cox and Barker (Interspeech 2026, arXiv
    2606.17967) is 768 -> 768 -> 768 -> 2 x 384 with ReLU between.

    Arguments
    ---------
    input_shape : list of int
        [layers, dim] of the features.
    factors : list of str
        Subspaces, in the order of their slices.
    widths : dict
        Factor -> dimension of its subspace. May name more than ``factors``.
    hidden : list of int
        Sizes of the hidden layers; none makes the map linear.
    projection : int
        Dimension of a linear map of the features before the perceptron.
        Default: none.
    residual_width : int
        Dimension of a further subspace ``residual`` that no factor trains.
    layer_mixture : bool
        Learn for each subspace a softmax-weighted sum of the layers, instead
        of concatenating them.
    standardise : bool
        Whether :meth:`fit_statistics` estimates statistics of the input. The
        published configuration uses features as they are.

    Raises
    ------
    InputError
        If there is no factor, or one has no width.

    Example
    -------
    >>> network = SubspaceNetwork(
    ...     [1, 768],
    ...     ["speaker", "content"],
    ...     {"speaker": 384, "content": 384},
    ...     hidden=[768, 768],
    ... )
    >>> sum(p.numel() for p in network.parameters())
    1771776
    >>> network(torch.randn(4, 1, 768))["content"].shape
    torch.Size([4, 384])
    """

    def __init__(
        self,
        input_shape,
        factors,
        widths,
        hidden=(768, 768),
        projection=None,
        residual_width=0,
        layer_mixture=False,
        standardise=False,
    ):
        missing = [factor for factor in factors if factor not in widths]
        if missing or not factors:
            raise InputError(
                f"No width for subspace '{missing[0]}': add it to the widths"
                if missing
                else "The list of factors is empty: name at least one"
            )
        trained = {factor: widths[factor] for factor in factors}
        residual = {"residual": residual_width} if residual_width else {}
        every = {**trained, **residual}
        super().__init__(every, FeatureStandardiser(input_shape), standardise)
        self.widths = every
        # The same network is built again of these.
        self.config = dict(
            input_shape=list(input_shape),
            factors=list(factors),
            widths=trained,
            hidden=list(hidden),
            projection=projection,
            residual_width=residual_width,
            layer_mixture=layer_mixture,
            standardise=standardise,
        )

        n_layers, dim = input_shape
        self.mixture = None
        if layer_mixture:
            # Zeros: all layers weigh the same at the start.
            self.mixture = torch.nn.Parameter(
                torch.zeros(len(self.widths), n_layers)
            )
        size, layers = dim if layer_mixture else n_layers * dim, []
        if projection is not None:
            layers.append(torch.nn.Linear(size, projection))
            size = projection
        sizes = [size, *hidden]
        for size_in, size_out in zip(sizes, sizes[1:]):
            layers += [torch.nn.Linear(size_in, size_out), torch.nn.ReLU()]
        layers.append(torch.nn.Linear(sizes[-1], sum(self.widths.values())))
        self.mlp = torch.nn.Sequential(*layers)

    def forward(self, features):
        """Map features to subspaces.

        Arguments
        ---------
        features : torch.Tensor
            Shape [B, layers, dim].

        Returns
        -------
        dict
            Subspace -> torch.Tensor of shape [B, width], not normalised.
        """
        x = self.standardiser(features)
        widths = list(self.widths.values())
        if self.mixture is None:
            slices = self.mlp(x.flatten(1)).split(widths, dim=-1)
        else:
            weights = self.mixture.softmax(dim=-1)
            mixed = torch.einsum("sl,bld->sbd", weights, x)
            # Each subspace keeps its own slice of its own mixture's output.
            slices = [
                self.mlp(one).split(widths, dim=-1)[i]
                for i, one in enumerate(mixed)
            ]
        return dict(zip(self.widths, slices))


class BaselineHead(Head):
    """The pooled features themselves, as they are or standardised.

    Arguments
    ---------
    subspaces : list of str
        Names under which the same vector is returned.
    standardiser : FeatureStandardiser
        What is done to the features. Default: nothing.

    Example
    -------
    >>> baseline = BaselineHead(["speaker", "content"])
    >>> baseline(torch.zeros(3, 2, 4))["content"].shape
    torch.Size([3, 8])
    """

    def __init__(self, subspaces=("pooled",), standardiser=None):
        identity = torch.nn.Identity()
        super().__init__(
            subspaces, standardiser or identity, standardiser is not None
        )

    def forward(self, features):
        """[B, layers, dim] -> subspace -> [B, layers * dim]."""
        vectors = self.standardiser(features).flatten(1)
        return dict.fromkeys(self.subspaces, vectors)


@register_checkpoint_hooks
class SubspaceEmbedding(torch.nn.Module):
    """Frozen encoder, layer selection and head in one module.

    With the call ``(wavs, wav_lens) -> [B, 1, D]`` it stands where a stock
    recipe or inference class expects an ``embedding_model``.

    Arguments
    ---------
    encoder : speechbrain_ext.lobes.pooled_encoder.PooledEncoder
        The frozen encoder.
    network : Head
        The head that takes the encoder's vectors.
    layers : list of int
        Layers of the encoder that the head takes.
    subspace : str
        The subspace that ``forward`` returns. Default: the first.

    Raises
    ------
    InputError
        If there is no such subspace.
    """

    def __init__(self, encoder, network, layers, subspace=None):
        super().__init__()
        self.encoder, self.network = encoder, network
        self.layers = list(layers)
        self.subspace = network.subspaces[0]
        self.subspace = self.choose_subspace(subspace)
        self.requires_grad_(False)

    def choose_subspace(self, name=None):
        """The name, or the default; refused if there is none such."""
        name = name or self.subspace
        if name not in self.network.subspaces:
            raise InputError(
                f"Unknown subspace '{name}': this model has "
                f"{', '.join(self.network.subspaces)}"
            )
        return name

    def pooled(self, wavs, wav_lens=None):
        """Features that the head takes, shape [B, layers, dim]."""
        return self.encoder(wavs, wav_lens)[:, self.layers]

    @torch.no_grad()
    def embed(self, wavs, wav_lens=None):
        """All subspaces: a dict of tensors of shape [B, D]."""
        return self.network(self.pooled(wavs, wav_lens))

    def forward(self, wavs, wav_lens=None):
        """One subspace of a batch of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape [B, time], at the encoder's sample rate.
        wav_lens : torch.Tensor
            Relative lengths, shape [B]. Default: all full.

        Returns
        -------
        torch.Tensor
            Shape [B, 1, D].
        """
        return self.embed(wavs, wav_lens)[self.subspace].unsqueeze(1)

    def _origin(self):
        """What the weights of the head are of no use without."""
        return {
            "encoder": self.encoder.identity,
            "layers": self.layers,
            "subspaces": self.network.subspaces,
        }

    def save(self, path):
        """Save the weights of the head, and which vectors it takes.

        Arguments
        ---------
        path : str or Path
            The file. The encoder is not in it.
        """
        torch.save(
            {**self._origin(), "weights": self.network.state_dict()}, path
        )

    @mark_as_transfer
    def load(self, path):
        """Load what :meth:`save` saved, where it is of the same encoder.

        Arguments
        ---------
        path : str or Path
            The file.

        Raises
        ------
        InputError
            If it is damaged, or of another encoder, other layers, other
            subspaces or another head.

        Example
        -------
        >>> from speechbrain_ext.lobes.pooled_encoder import PooledEncoder
        >>> path = getfixture("tmp_path") / "embedding_model.ckpt"
        >>> encoder, head = PooledEncoder(16000, {}), BaselineHead()
        >>> SubspaceEmbedding(encoder, head, [0]).save(path)
        >>> SubspaceEmbedding(encoder, head, [1]).load(path)
        Traceback (most recent call last):
        ...
        speechbrain_ext.utils.errors.InputError: ... is of layers [0], this ...
        """
        saved = load_state(path)
        for key, own in self._origin().items():
            found = saved.get(key) if isinstance(saved, dict) else None
            if found != own:
                raise InputError(
                    f"{path} is of {key} {found}, this model of {own}"
                )
        fill(self.network, saved["weights"], path)
