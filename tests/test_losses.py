"""Losses against plain loops and closed-form values."""

import itertools
import math

import pytest
import torch

from speechbrain_ext.nnet.losses import (
    InterventionalLoss,
    contrastive_floor,
    interventional_contrastive_loss,
    orthogonality_loss,
)
from speechbrain_ext.utils.errors import InputError


def loop_loss(embeddings, labels, temperature, margin):
    """The definition, anchor by anchor and pair by pair."""
    z = [e / e.norm() for e in embeddings.double()]
    n, anchors = len(z), []
    for i in range(n):
        logits = {
            j: (z[i] @ z[j] - margin * (labels[i] == labels[j])) / temperature
            for j in range(n)
            if j != i
        }
        positives = [j for j in logits if labels[j] == labels[i]]
        if positives:
            total = sum(math.exp(v) for v in logits.values())
            terms = [-math.log(math.exp(logits[p]) / total) for p in positives]
            anchors.append(sum(terms) / len(terms))
    return sum(anchors) / len(anchors)


@pytest.mark.parametrize("temperature, margin", [(0.1, 0.0), (0.5, 0.2)])
@pytest.mark.parametrize(
    "labels", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2], [3, 1, 3, 3, 1, 0]]
)
def test_contrastive_against_a_loop(labels, temperature, margin):
    torch.manual_seed(0)
    embeddings = torch.randn(6, 5)
    loss = interventional_contrastive_loss(
        embeddings, torch.tensor(labels), temperature, margin
    )
    expected = loop_loss(embeddings, labels, temperature, margin)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_contrastive_closed_forms():
    labels = torch.arange(16).repeat_interleave(32)
    # All vectors equal: every other row is as likely.
    same = interventional_contrastive_loss(torch.ones(512, 4), labels)
    assert same.item() == pytest.approx(math.log(511), rel=1e-5)
    # Perfect: the floor, up to exp(-1 / 0.1) of the negatives.
    perfect = torch.eye(16)[labels]
    loss = interventional_contrastive_loss(perfect, labels)
    expected = math.log(31 + 480 * math.exp(-10))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert contrastive_floor(labels).item() == pytest.approx(math.log(31))


def test_published_floor():
    """16 x 32 blocks: log 31 + log 15 = 6.142."""
    codes = {
        "speaker": torch.arange(16).repeat_interleave(32),
        "content": torch.arange(32).repeat(16),
    }
    floors = [contrastive_floor(labels).item() for labels in codes.values()]
    assert sum(floors) == pytest.approx(6.142, abs=5e-4)


def test_scale_does_not_matter():
    torch.manual_seed(0)
    x, labels = torch.randn(8, 3), torch.arange(8) // 2
    a = interventional_contrastive_loss(x, labels)
    b = interventional_contrastive_loss(x * torch.rand(8, 1) * 9, labels)
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0]])
def test_no_positive_gives_zero_and_no_gradient(labels):
    x = torch.randn(len(labels), 3, requires_grad=True)
    loss = interventional_contrastive_loss(x, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert (x.grad == 0).all()
    assert contrastive_floor(torch.tensor(labels)).item() == 0


def test_gradient_check():
    torch.manual_seed(0)
    x = torch.randn(6, 4, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    interventional_contrastive_loss(x, labels, 0.5).backward()
    step, i, j = 1e-2, 1, 2
    with torch.no_grad():
        moved = []
        for sign in (1, -1):
            y = x.clone()
            y[i, j] += sign * step
            moved.append(interventional_contrastive_loss(y, labels, 0.5))
    slope = (moved[0] - moved[1]) / (2 * step)
    assert x.grad[i, j].item() == pytest.approx(slope.item(), rel=1e-2)


def test_half_precision_input_is_computed_in_float32():
    torch.manual_seed(0)
    x, labels = torch.randn(64, 32), torch.arange(64) // 4
    with torch.autocast("cpu", torch.bfloat16):
        mixed = interventional_contrastive_loss(x, labels)
        shared = orthogonality_loss(x, x, "cka")
    assert torch.equal(mixed, interventional_contrastive_loss(x, labels))
    assert shared.dtype == torch.float32


def test_orthogonality_against_loops():
    torch.manual_seed(0)
    a, b = torch.randn(7, 3), torch.randn(7, 4)
    u, v = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    total = 0.0
    for i, j in itertools.product(range(3), range(4)):
        total += sum((u[n, i] * v[n, j]).item() for n in range(7)) ** 2
    loss = orthogonality_loss(a, b, "published")
    assert loss.item() == pytest.approx(total / 12, rel=1e-5)

    c = torch.randn(7, 3)
    w = c / c.norm(dim=1, keepdim=True)
    total = sum(
        (u[i] @ w[j]).item() ** 2
        for i, j in itertools.product(range(7), range(7))
    )
    loss = orthogonality_loss(a, c, "published_batch")
    assert loss.item() == pytest.approx(total / 49, rel=1e-5)


def test_published_orthogonality_is_nearly_inert():
    """Values that METHOD reports for B = 512 and D = 384."""
    torch.manual_seed(0)
    a, b = torch.randn(512, 384), torch.randn(512, 384)
    assert orthogonality_loss(a, b).item() == pytest.approx(0.0034, abs=2e-4)
    assert orthogonality_loss(a, a).item() == pytest.approx(0.0081, abs=2e-4)


def test_cka_is_centred_and_free_of_scale():
    torch.manual_seed(0)
    a, b = torch.randn(2000, 5), torch.randn(2000, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5)).Q
    assert orthogonality_loss(a, b, "cka").item() < 0.01
    moved = 7 * a @ rotation + 3
    assert orthogonality_loss(a, moved, "cka").item() == pytest.approx(1, 1e-4)
    # A shared offset alone is no shared information.
    assert orthogonality_loss(a + 9, b + 9, "cka").item() < 0.01
    assert orthogonality_loss(a + 9, b + 9).item() > 0.1


def test_unknown_form():
    with pytest.raises(InputError, match="expected published"):
        orthogonality_loss(torch.ones(2, 2), torch.ones(2, 2), "nice")
    with pytest.raises(InputError, match="got 2 and 3"):
        orthogonality_loss(
            torch.ones(2, 2), torch.ones(2, 3), "published_batch"
        )


def test_total_loss():
    torch.manual_seed(0)
    z = {name: torch.randn(12, 4) for name in ("speaker", "content", "style")}
    codes = {
        "speaker": torch.arange(12) // 6,
        "content": torch.arange(12) % 3,
        "style": torch.arange(12) % 2,
    }
    total, parts = InterventionalLoss(orthogonality_weight=2.0)(z, codes)
    contrastive = sum(
        interventional_contrastive_loss(z[f], codes[f]) for f in codes
    )
    pairs = sum(
        orthogonality_loss(a, b)
        for a, b in itertools.combinations(z.values(), 2)
    )
    assert torch.allclose(total, contrastive + 2 * pairs)
    floors = sum(contrastive_floor(c) for c in codes.values())
    assert torch.allclose(parts["excess"], contrastive - floors)
    assert torch.allclose(parts["orthogonality"], pairs)
    # A residual subspace only has to be orthogonal.
    residual = z | {"residual": torch.randn(12, 2)}
    _, more = InterventionalLoss()(residual, codes)
    assert torch.allclose(more["excess"], parts["excess"])
    assert more["orthogonality"] > parts["orthogonality"]
    # One factor: no pair, no orthogonality.
    _, single = InterventionalLoss()({"style": z["style"]}, codes)
    assert set(single) == {"excess", "excess_style"}
