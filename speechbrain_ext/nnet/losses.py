"""Losses of interventional post-training.

The method: Cox and Barker, "Learning task-specific subspaces via
interventional post-training of speech foundation models", Interspeech 2026,
https://arxiv.org/abs/2606.17967. The contrastive loss is the multi-positive
one of Khosla et al., "Supervised contrastive learning", NeurIPS 2020
(https://arxiv.org/abs/2004.11362), with one term per factor.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F

from speechbrain_ext.utils.errors import InputError


def _positives(labels):
    """Pairs of different rows with the same label, and how many a row has.

    1.0 for each pair, [B, B], and their sums, [B, 1]. Nothing here is indexed
    by a mask: a GPU would be waited for, to learn how many rows there are.
    """
    same = (labels.unsqueeze(0) == labels.unsqueeze(1)).float()
    same.fill_diagonal_(0.0)
    return same, same.sum(dim=-1, keepdim=True)


def _mean_of_anchors(total, count):
    """Of a sum over the rows that have a positive; 0 where none has one."""
    return total / (count > 0).sum().clamp(min=1)


class _Similarities(torch.autograd.Function):
    """z @ z.T: one product backward, where autograd takes two."""

    @staticmethod
    def forward(ctx, z):
        """[B, D] -> [B, B]."""
        ctx.save_for_backward(z)
        return z @ z.T

    @staticmethod
    def backward(ctx, grad):
        """[B, B] -> [B, D]."""
        (z,) = ctx.saved_tensors
        return (grad + grad.T) @ z


def interventional_contrastive_loss(
    embeddings, labels, temperature=0.1, margin=0.0
):
    """Multi-positive contrastive loss of one factor on one block.

    With cosine similarities s(i, j), positives P(i) = the other rows with the
    label of row i, and A(i) = all other rows, the loss of an anchor i is

        - 1/|P(i)| sum_{p in P(i)} log(
              exp(l(i, p)) / sum_{a in A(i)} exp(l(i, a)) )

    with l(i, j) = (s(i, j) - margin [j in P(i)]) / temperature. It is averaged
    over the anchors that have a positive. Its floor is not zero: see
    :func:`contrastive_floor`.

    Arguments
    ---------
    embeddings : torch.Tensor
        One subspace of a block, shape [B, D]; any scale, they are normalised.
        Logits are computed in float32.
    labels : torch.Tensor
        Integer value of the factor, shape [B].
    temperature : float
        Divides the cosine similarities.
    margin : float
        Taken off the cosine similarity of the positive pairs.

    Returns
    -------
    torch.Tensor
        A scalar in nats; zero (with a gradient of zero) where no anchor has
        a positive.

    Example
    -------
    >>> emb = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> loss = interventional_contrastive_loss(emb, labels, temperature=1.0)
    >>> bool(torch.isclose(loss, torch.tensor(1 + 2 / torch.e).log()))
    True
    """
    return _contrastive(embeddings, *_positives(labels), temperature, margin)


def _contrastive(embeddings, positive, count, temperature, margin):
    """The loss, of what :func:`_positives` says."""
    with torch.autocast(embeddings.device.type, enabled=False):
        # Divided here, where there are fewer numbers than logits.
        z = F.normalize(embeddings.float(), dim=-1) / temperature**0.5
        logits = _Similarities.apply(z)
        if margin:
            logits = logits - margin / temperature * positive
        # Finite, so that a block of one utterance has no NaN gradient.
        logits = logits.fill_diagonal_(torch.finfo(logits.dtype).min)
        target = positive / count.clamp(min=1)
        total = F.cross_entropy(logits, target, reduction="sum")
        return _mean_of_anchors(total, count)


def contrastive_floor(labels):
    """Lower bound of the contrastive loss: mean log number of positives.

    Cross-entropy with a target that is uniform over n positives is at least
    log n, so only the excess over this compares between block shapes.

    Arguments
    ---------
    labels : torch.Tensor
        Integer value of the factor, shape [B].

    Returns
    -------
    torch.Tensor
        A scalar in nats; zero where no anchor has a positive.

    Example
    -------
    >>> labels = torch.arange(16).repeat_interleave(32)
    >>> round(contrastive_floor(labels).item(), 3)  # log 31
    3.434
    """
    return _floor(_positives(labels)[1])


def _floor(count):
    """The lower bound, of what :func:`_positives` says."""
    return _mean_of_anchors(count.clamp(min=1).log().sum(), count)


def orthogonality_loss(a, b, form="published"):
    """How much two subspaces of the same utterances share.

    Arguments
    ---------
    a, b : torch.Tensor
        Two subspaces of one block, shapes [B, D1] and [B, D2].
    form : str
        ``"published"``: rows are L2-normalised; mean square of the D1 x D2
        cross-product. ``"published_batch"``: the same with the B x B product,
        D1 = D2, as in an earlier release of the authors' code. Neither is
        centred, and both depend on B and D: for independent rows they are near
        B / (D1 D2) and 1 / D.
        ``"cka"``: linear centred kernel alignment (Kornblith et al., ICML
        2019, https://arxiv.org/abs/1905.00414), 0 for uncorrelated and 1 for
        equal subspaces up to rotation and scale, whatever B and D.

    Returns
    -------
    torch.Tensor
        A scalar, at least 0.

    Raises
    ------
    InputError
        If the form is unknown, or needs equal widths that differ.

    Example
    -------
    >>> x = torch.randn(64, 8)
    >>> round(orthogonality_loss(x, 3 * x + 1, form="cka").item(), 4)
    1.0
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        if form == "cka":
            a, b = a - a.mean(dim=0), b - b.mean(dim=0)
            shared = (a.T @ b).square().sum()
            own = (a.T @ a).norm() * (b.T @ b).norm()
            return shared / own.clamp(min=torch.finfo(own.dtype).tiny)
        a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
        if form == "published":
            return (a.T @ b).square().mean()
        if form == "published_batch":
            if a.shape[1] != b.shape[1]:
                raise InputError(
                    "Orthogonality published_batch compares subspaces of "
                    f"equal width, got {a.shape[1]} and {b.shape[1]}"
                )
            return (a @ b.T).square().mean()
    raise InputError(
        f"Unknown form '{form}': expected published, published_batch or cka"
    )


def ramp(weight, epoch=None):
    """A weight in some epoch of the training.

    Arguments
    ---------
    weight : float or list
        A number, or a linear ramp: [weight until the first epoch, weight from
        the last epoch on, first epoch, last epoch].
    epoch : int
        Counted from 1. Default: after all of them.

    Returns
    -------
    float

    Example
    -------
    >>> [ramp([0.0, 2.0, 3, 7], epoch) for epoch in (1, 3, 4, 7, None)]
    [0.0, 0.0, 0.5, 2.0, 2.0]
    """
    if not isinstance(weight, (list, tuple)):
        return weight
    start, end, first, last = weight
    epoch = last if epoch is None else epoch
    return float(np.interp(epoch, [first, last], [start, end]))


class InterventionalLoss(torch.nn.Module):
    """Contrastive loss of every subspace plus orthogonality of every pair.

    Arguments
    ---------
    temperature, margin : float
        Of :func:`interventional_contrastive_loss`.
    orthogonality : str
        A form of :func:`orthogonality_loss`.
    weights : dict
        Weight of the contrastive loss of each factor and, as
        ``orthogonality``, of the sum over the pairs of subspaces: numbers or
        ramps over epochs, see :func:`ramp`. Those that are left out are 1;
        factors that a block has no subspace of are passed over.

    Example
    -------
    >>> loss = InterventionalLoss(weights={"content": [0.0, 1.0, 1, 10]})
    >>> z = {"speaker": torch.randn(8, 4), "content": torch.randn(8, 4)}
    >>> rows = torch.arange(8)
    >>> codes = {"speaker": rows // 4, "content": rows % 4}
    >>> total, parts = loss(z, codes, epoch=5)
    >>> sorted(parts)
    ['excess', 'excess_content', 'excess_speaker', 'orthogonality']
    """

    def __init__(
        self,
        temperature=0.1,
        margin=0.0,
        orthogonality="published",
        weights=None,
    ):
        super().__init__()
        self.temperature, self.margin = temperature, margin
        self.orthogonality, self.weights = orthogonality, weights or {}
        self.config = dict(
            temperature=temperature,
            margin=margin,
            orthogonality=orthogonality,
            weights=self.weights,
        )

    def forward(self, subspaces, codes, epoch=None):
        """The loss of one block.

        Arguments
        ---------
        subspaces : dict
            Factor -> embeddings, shape [B, D_factor]. Subspaces that are no
            factor of ``codes`` (a residual one) take part in the
            orthogonality only.
        codes : dict
            Factor -> integer labels, shape [B].
        epoch : int
            Whose weights are taken. Default: those that ramps end with, which
            make losses of different epochs comparable.

        Returns
        -------
        total : torch.Tensor
            The scalar to minimise.
        parts : dict
            Detached scalars to log, without weights: ``excess_<factor>`` over
            the floor in nats, their sum ``excess``, and ``orthogonality``.
        """
        total, parts = 0.0, {}
        for factor, z in subspaces.items():
            if factor not in codes:
                continue
            positive, count = _positives(codes[factor])
            loss = _contrastive(
                z, positive, count, self.temperature, self.margin
            )
            total = total + ramp(self.weights.get(factor, 1.0), epoch) * loss
            parts[f"excess_{factor}"] = (loss - _floor(count)).detach()
        parts["excess"] = sum(parts.values())
        pairs = itertools.combinations(subspaces.values(), 2)
        shared = [
            orthogonality_loss(a, b, self.orthogonality) for a, b in pairs
        ]
        if shared:
            parts["orthogonality"] = sum(shared).detach()
            weight = ramp(self.weights.get("orthogonality", 1.0), epoch)
            total = total + weight * sum(shared)
        return total, parts
