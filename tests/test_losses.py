"""Losses against plain loops and closed-form values."""

import itertools
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from speechbrain_ext.nnet.losses import (
    InterventionalLoss,
    contrastive_floor,
    interventional_contrastive_loss,
    orthogonality_loss,
    ramp,
)
from speechbrain_ext.utils.errors import InputError


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.manual_seed(seed))


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
    embeddings = random(6, 5)
    loss = interventional_contrastive_loss(
        embeddings, torch.tensor(labels), temperature, margin
    )
    expected = loop_loss(embeddings, labels, temperature, margin)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_gradient_against_autograd_of_the_definition(margin):
    x = random(12, 5).double().requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 0])
    others = ~torch.eye(12, dtype=torch.bool)
    positive = (labels[:, None] == labels) & others
    z = x / x.norm(dim=1, keepdim=True)
    logits = (z @ z.T - margin * positive) / 0.1
    total = logits.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)
    anchors = [(total - logits)[i][positive[i]] for i in range(12)]
    torch.stack([one.mean() for one in anchors if len(one)]).mean().backward()
    y = x.detach().float().requires_grad_()
    interventional_contrastive_loss(y, labels, margin=margin).backward()
    assert torch.allclose(y.grad.double(), x.grad, atol=1e-6)


@pytest.mark.parametrize("form", ["published", "published_batch", "cka"])
def test_a_step_waits_for_no_number(form):
    """Tensors without data: to read a number, or index by a mask, raises.

    As does another device; that of a GPU, which need not be there, has no
    gradients.
    """
    for device in ("cuda", "cpu"):
        with FakeTensorMode():
            rows = torch.arange(8, device=device)
            codes = {"speaker": rows // 4, "content": rows % 4}
            z = {f: torch.ones(8, 4, device=device) for f in codes}
            z = {f: one.requires_grad_() for f, one in z.items()}
            total, parts = InterventionalLoss(0.1, 0.1, form)(z, codes)
            if device == "cpu":
                total.backward()
        found = {one.device.type for one in (total, *parts.values())}
        assert found == {device}


def test_contrastive_closed_forms():
    labels = torch.arange(16).repeat_interleave(32)
    # All vectors equal: every other row is as likely.
    same = interventional_contrastive_loss(torch.ones(512, 4), labels)
    assert same.item() == pytest.approx(math.log(511), rel=1e-5)
    # Perfect: the floor, up to exp(-1 / 0.1) of the negatives.
    loss = interventional_contrastive_loss(torch.eye(16)[labels], labels)
    expected = math.log(31 + 480 * math.exp(-10))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    # Published blocks, 16 x 32: log 31 + log 15 = 6.142.
    floors = [
        contrastive_floor(labels),
        contrastive_floor(torch.arange(512) % 32),
    ]
    assert sum(floors).item() == pytest.approx(6.142, abs=5e-4)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0]])
def test_no_positive_gives_zero_and_no_gradient(labels):
    x = random(len(labels), 3).requires_grad_()
    loss = interventional_contrastive_loss(x, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert (x.grad == 0).all()
    assert contrastive_floor(torch.tensor(labels)).item() == 0


def test_half_precision_input_is_computed_in_float32():
    x, labels = random(64, 32), torch.arange(64) // 4
    with torch.autocast("cpu", torch.bfloat16):
        mixed = interventional_contrastive_loss(x, labels)
        shared = orthogonality_loss(x, x, "cka")
    assert torch.equal(mixed, interventional_contrastive_loss(x, labels))
    assert torch.equal(shared, orthogonality_loss(x, x, "cka"))


def test_orthogonality_against_loops():
    a, b, c = random(7, 3), random(7, 4, seed=1), random(7, 3, seed=2)
    u, v, w = (x / x.norm(dim=1, keepdim=True) for x in (a, b, c))
    total = sum(
        sum((u[n, i] * v[n, j]).item() for n in range(7)) ** 2
        for i, j in itertools.product(range(3), range(4))
    )
    loss = orthogonality_loss(a, b, "published")
    assert loss.item() == pytest.approx(total / 12, rel=1e-5)
    total = sum((one @ other).item() ** 2 for one in u for other in w)
    loss = orthogonality_loss(a, c, "published_batch")
    assert loss.item() == pytest.approx(total / 49, rel=1e-5)


def test_published_orthogonality_is_nearly_inert():
    a, b = random(512, 384), random(512, 384, seed=1)
    assert orthogonality_loss(a, b).item() == pytest.approx(0.0034, abs=2e-4)
    assert orthogonality_loss(a, a).item() == pytest.approx(0.0081, abs=2e-4)


def test_cka_is_centred_and_free_of_scale():
    a, b = random(2000, 5), random(2000, 5, seed=1)
    rotation = torch.linalg.qr(random(5, 5)).Q
    assert orthogonality_loss(a, b, "cka").item() < 0.01
    moved = 7 * a @ rotation + 3
    assert orthogonality_loss(a, moved, "cka").item() == pytest.approx(1, 1e-4)
    # A shared offset alone is no shared information.
    assert orthogonality_loss(a + 9, b + 9, "cka").item() < 0.01
    assert orthogonality_loss(a + 9, b + 9).item() > 0.1


def test_forms_that_are_refused():
    with pytest.raises(InputError, match="expected published"):
        orthogonality_loss(torch.ones(2, 2), torch.ones(2, 2), "nice")
    with pytest.raises(InputError, match="got 2 and 3"):
        orthogonality_loss(random(2, 2), random(2, 3), "published_batch")


def test_total_loss():
    codes = {
        "speaker": torch.arange(12) // 6,
        "content": torch.arange(12) % 3,
        "style": torch.arange(12) % 2,
    }
    z = {name: random(12, 4, seed=i) for i, name in enumerate(codes)}
    loss = InterventionalLoss(0.3, 0.1, "cka", {"orthogonality": 2.0})
    total, parts = loss(z, codes)
    contrastive = sum(
        interventional_contrastive_loss(z[f], codes[f], 0.3, 0.1) for f in codes
    )
    pairs = sum(
        orthogonality_loss(a, b, "cka")
        for a, b in itertools.combinations(z.values(), 2)
    )
    assert torch.allclose(total, contrastive + 2 * pairs)
    floors = sum(contrastive_floor(c) for c in codes.values())
    assert torch.allclose(parts["excess"], contrastive - floors)
    assert torch.allclose(parts["orthogonality"], pairs)
    # A residual subspace only has to be orthogonal, one factor has no pair.
    _, more = loss(z | {"residual": random(12, 2)}, codes)
    assert torch.allclose(more["excess"], parts["excess"])
    assert more["orthogonality"] > parts["orthogonality"]
    assert set(loss({"style": z["style"]}, codes)[1]) == {
        "excess", "excess_style"
    }  # fmt: skip


def test_weights_by_hand():
    """Eye-shaped subspaces, whose losses are known in closed form."""
    codes = {"speaker": torch.arange(6) // 3, "content": torch.arange(6) % 3}
    z = {
        "speaker": torch.eye(2)[codes["speaker"]],
        "content": torch.eye(3)[codes["content"]],
    }
    # At temperature 1: positives e, negatives 1; 2 and 1 positives of 5.
    speaker = math.log((2 * math.e + 3) / math.e)
    content = math.log((math.e + 4) / math.e)
    # Every speaker meets every content once: all 6 products are 1.
    orthogonality = 1.0
    weights = {
        "speaker": 0.5,
        "content": [4.0, 1.0, 2, 5],
        "orthogonality": [0.0, 0.1, 1, 11],
        "style": 7.0,  # is not trained
    }
    loss = InterventionalLoss(1.0, weights=weights)
    seen = []
    for epoch, of_content, of_pairs in (
        (1, 4, 0), (2, 4, 0.01), (3, 3, 0.02), (5, 1, 0.04), (20, 1, 0.1),
        (None, 1, 0.1),
    ):  # fmt: skip
        total, parts = loss(z, codes, epoch)
        expected = 0.5 * speaker + of_content * content
        expected += of_pairs * orthogonality
        assert total.item() == pytest.approx(expected, rel=1e-5)
        seen.append({name: part.item() for name, part in parts.items()})
    # What is logged has no weights.
    assert all(parts == seen[0] for parts in seen)
    assert seen[0]["excess_speaker"] == pytest.approx(speaker - math.log(2))
    assert seen[0]["excess_content"] == pytest.approx(content)
    assert seen[0]["orthogonality"] == pytest.approx(orthogonality)


def test_a_weight_of_zero_trains_nothing():
    codes = {"speaker": torch.arange(6) // 3, "content": torch.arange(6) % 3}
    z = {f: random(6, 4, seed=i).requires_grad_() for i, f in enumerate(codes)}
    loss = InterventionalLoss(weights={"content": 0.0, "orthogonality": 0.0})
    loss(z, codes)[0].backward()
    assert (z["content"].grad == 0).all() and z["speaker"].grad.norm() > 0


def test_ramps():
    down = [2.0, 1.0, 10, 20]
    assert [ramp(down, n) for n in (1, 10, 15, 20, 99)] == [2, 2, 1.5, 1, 1]
    assert ramp(down) == 1 and ramp(0.3, 5) == ramp(0.3) == 0.3
