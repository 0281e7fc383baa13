"""Losses of interventional post-training.

Authors
 * @AUTHORS@
"""

import math

import pytest
import torch


def one_by_one(embeddings, labels, temperature, margin):
    """The contrastive loss as its formula says, pair by pair."""
    z = torch.nn.functional.normalize(embeddings, dim=-1)
    of_anchors = []
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        positives = [j for j in others if labels[j] == label]
        if not positives:
            continue
        logits = {
            j: ((z[i] @ z[j]) - margin * (j in positives)) / temperature
            for j in others
        }
        total = sum(logit.exp() for logit in logits.values()).log()
        of_anchors.append(
            sum(total - logits[j] for j in positives) / len(positives)
        )
    return sum(of_anchors) / len(of_anchors)


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_contrastive_loss_and_its_gradient(margin):
    from speechbrain.nnet.interventional_losses import (
        interventional_contrastive_loss,
    )

    torch.manual_seed(0)
    # The last row has no positive
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])
    found = []
    for loss in (interventional_contrastive_loss, one_by_one):
        z = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
        z.requires_grad_()
        value = loss(z, labels, 0.3, margin)
        value.backward()
        found.append((value, z.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_floor_is_met_by_equal_positives():
    from speechbrain.nnet.interventional_losses import (
        contrastive_floor,
        interventional_contrastive_loss,
    )

    labels = torch.arange(4).repeat_interleave(6)
    z = torch.eye(4)[labels]
    floor = contrastive_floor(labels)
    assert floor.item() == pytest.approx(math.log(5))
    loss = interventional_contrastive_loss(z, labels, temperature=0.01)
    assert loss.item() == pytest.approx(floor.item(), abs=1e-5)
    worse = interventional_contrastive_loss(z.roll(1, 0), labels, 0.01)
    assert worse > loss + 1


def test_no_positive_gives_no_gradient():
    from speechbrain.nnet.interventional_losses import (
        interventional_contrastive_loss,
    )

    z = torch.randn(4, 3, requires_grad=True)
    loss = interventional_contrastive_loss(z, torch.arange(4))
    loss.backward()
    assert loss.item() == 0 and z.grad.abs().max() == 0


def test_orthogonality():
    from speechbrain.nnet.interventional_losses import orthogonality_loss

    torch.manual_seed(0)
    a, b = torch.randn(64, 8), torch.randn(64, 5)
    turned = a @ torch.linalg.qr(torch.randn(8, 8))[0]
    assert orthogonality_loss(a, turned, "cka").item() == pytest.approx(1)
    assert orthogonality_loss(a, b, "cka") < 0.3
    rows_a = a / a.norm(dim=1, keepdim=True)
    rows_b = b / b.norm(dim=1, keepdim=True)
    expected = (rows_a.T @ rows_b).square().mean()
    assert torch.allclose(orthogonality_loss(a, b), expected)
    with pytest.raises(ValueError, match="equal width, got 8 and 5"):
        orthogonality_loss(a, b, "published_batch")
    with pytest.raises(ValueError, match="Unknown form 'cosine'"):
        orthogonality_loss(a, b, "cosine")


def test_sum_of_all_losses():
    from speechbrain.nnet.interventional_losses import (
        InterventionalLoss,
        interventional_contrastive_loss,
        orthogonality_loss,
    )

    torch.manual_seed(0)
    rows = torch.arange(12)
    codes = {"speaker": rows // 4, "content": rows % 4}
    # The residual subspace is of no factor: it is kept apart from the others
    z = {name: torch.randn(12, 3) for name in ("speaker", "content", "rest")}
    weights = {"content": [0.0, 2.0, 1, 5], "orthogonality": 3.0}
    total, parts = InterventionalLoss(weights=weights)(z, codes, epoch=3)
    contrastive = {
        factor: interventional_contrastive_loss(z[factor], codes[factor])
        for factor in codes
    }
    shared = (
        orthogonality_loss(z["speaker"], z["content"])
        + orthogonality_loss(z["speaker"], z["rest"])
        + orthogonality_loss(z["content"], z["rest"])
    )
    expected = contrastive["speaker"] + contrastive["content"] + 3 * shared
    assert torch.allclose(total, expected)
    assert torch.allclose(parts["orthogonality"], shared)
    floor = contrastive["speaker"] - parts["excess_speaker"]
    assert floor.item() == pytest.approx(math.log(3))
