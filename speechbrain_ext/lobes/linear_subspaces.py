"""Linear maps from pooled features to subspaces, filled by a closed form."""

import torch

from speechbrain_ext.lobes.subspaces import FeatureStandardiser, Head
from speechbrain_ext.utils.errors import InputError


class LinearSubspaces(Head):
    """One linear projection per subspace, of features [layers, dim].

    It stands wherever a trained
    :class:`~speechbrain_ext.lobes.subspaces.SubspaceNetwork` does: evaluation,
    export, inference. Empty (all zeros) until a closed form of
    :mod:`speechbrain_ext.processing.closed_form` or a ``load_state_dict``
    fills it.

    Arguments
    ---------
    input_shape : list of int
        [layers, dim] of the features.
    widths : dict
        Subspace -> its dimension.
    standardise : bool
        Whether :meth:`fit_statistics` estimates statistics of the input.

    Raises
    ------
    InputError
        If there is no subspace, or one has no dimension.

    Example
    -------
    >>> head = LinearSubspaces([2, 4], {"speaker": 3})
    >>> head(torch.zeros(5, 2, 4))["speaker"].shape
    torch.Size([5, 3])
    """

    def __init__(self, input_shape, widths, standardise=True):
        if not widths or min(widths.values()) < 1:
            raise InputError(
                "every subspace needs at least one dimension, got "
                f"{dict(widths)}"
            )
        super().__init__(
            widths, FeatureStandardiser(input_shape), bool(standardise)
        )
        self.widths = {name: int(width) for name, width in widths.items()}
        # What an export needs to build the same head again.
        self.config = dict(
            input_shape=[int(size) for size in input_shape],
            widths=dict(self.widths),
            standardise=self.standardise,
        )
        n_layers, dim = input_shape
        self.projections = torch.nn.ModuleDict(
            {
                name: torch.nn.Linear(n_layers * dim, width)
                for name, width in self.widths.items()
            }
        )
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)

    @torch.no_grad()
    def set_projection(self, name, weight, bias):
        """Fill in the projection of one subspace.

        Arguments
        ---------
        name : str
            Subspace.
        weight : array or torch.Tensor
            Shape [width, layers * dim].
        bias : array or torch.Tensor
            Shape [width].
        """
        projection = self.projections[name]
        projection.weight.copy_(torch.as_tensor(weight))
        projection.bias.copy_(torch.as_tensor(bias))

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
        vectors = self.standardiser(features).flatten(1)
        return {
            name: projection(vectors)
            for name, projection in self.projections.items()
        }
