"""The published protocol: what it fixes, and its keyword classifier."""

import numpy as np
import pytest
import torch

from speechbrain_ext.evaluation.keywords import keyword_classification
from speechbrain_ext.evaluation.published import (
    PublishedClassifier,
    balanced_draw,
    load_protocol,
)
from speechbrain_ext.utils.errors import InputError

OPTIONS = {
    "protocol": "published",
    "conditions": None,
    "scoring": "cosine",
    "domain_statistics": "grid",
    "tasks": ["verification", "keywords"],
    "trials": "veri_test2.txt",
    "voxceleb1": False,
    "speech_commands": True,
}


def test_values():
    """Those of the authors' code."""
    protocol = load_protocol(OPTIONS)
    classifier = protocol["keyword_classifier"]()
    assert protocol["conditions"] == ["clean"]
    assert protocol["silence"] == {"train": 1800, "valid": 200, "test": 0}
    assert (classifier.epochs, classifier.batch_size) == (30, 64)
    assert classifier.learning_rate == 1e-3
    assert not protocol["needs_cohort"]


@pytest.mark.parametrize(
    "option, message",
    [
        ({"protocol": "other"}, "hparams/protocols: expected one of published"),
        ({"scoring": "s-norm"}, "has scoring cosine, got 's-norm'"),
        ({"domain_statistics": "target"}, "has domain_statistics grid"),
        ({"conditions": ["shifted"]}, "No condition 'shifted'"),
        ({"tasks": ["leakage"]}, "no task 'leakage'"),
        ({"trials": None}, "needs a trial list"),
        ({"speech_commands": False}, "needs Speech Commands"),
    ],
)
def test_what_it_does_not_leave_open(option, message):
    with pytest.raises(InputError, match=message):
        load_protocol(OPTIONS | option)
    if "trials" in option:  # which VoxCeleb1's folder has
        load_protocol(OPTIONS | option | {"voxceleb1": True})


def test_the_draw_keeps_few_of_a_frequent_class():
    """As in v0.01: 12 classes, most clips of one of them."""
    counts = torch.tensor([3250] + [185] * 11)
    codes = torch.repeat_interleave(torch.arange(12), counts)
    rows = balanced_draw(codes, torch.Generator().manual_seed(1))
    assert len(rows) == len(codes)
    shares = torch.bincount(codes[rows]) / len(rows)
    assert shares.numpy() == pytest.approx(np.full(12, 1 / 12), abs=0.02)
    kept = len(rows[codes[rows] == 0].unique()) / 3250
    assert kept == pytest.approx(1 - np.exp(-len(codes) / 12 / 3250), abs=0.02)
    assert 0.1 < kept < 0.16


def test_classifier_is_that_of_the_recipe():
    """Against Adam written out, on the same draw, start and order."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(90, 5)).astype(np.float32)
    codes = np.repeat([0, 1, 2], [70, 10, 10])
    model = PublishedClassifier(epochs=2, batch_size=32, seed=3)
    model.fit(vectors, codes)
    generator = torch.Generator().manual_seed(3)
    drawn = balanced_draw(torch.as_tensor(codes), generator)
    torch.manual_seed(3)
    layer = torch.nn.Linear(5, 3)
    weights = [p.detach().double().numpy() for p in layer.parameters()]
    moments = [[np.zeros_like(w), np.zeros_like(w)] for w in weights]
    step = 0
    for _ in range(2):
        for rows in torch.randperm(90, generator=generator).split(32):
            x = vectors[drawn[rows]].astype(float)
            logits = x @ weights[0].T + weights[1]
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            error = odds / odds.sum(axis=1, keepdims=True)
            error[np.arange(len(rows)), codes[drawn[rows]]] -= 1
            error /= len(rows)
            step += 1
            for w, (m, v), g in zip(
                weights, moments, (error.T @ x, error.sum(axis=0))
            ):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                size = m / (1 - 0.9**step)
                w -= 1e-3 * size / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    assert step == 6
    fitted = [p.detach().numpy() for p in model.layer.parameters()]
    for one, other in zip(fitted, weights):
        assert one == pytest.approx(other, abs=1e-5)


def test_deterministic_and_not_standardised():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 8))
    labels = np.array(list("abc") * 40)
    vectors = np.tile(centres, (40, 1)) + 0.1 * rng.normal(size=(120, 8))
    state = torch.get_rng_state()
    results = [
        keyword_classification(
            vectors * scale, labels, vectors * scale, labels,
            make_classifier=PublishedClassifier,
        )
        for scale in (10, 10, 1e-4)
    ]  # fmt: skip
    assert torch.equal(state, torch.get_rng_state())
    assert (results[0]["correct"] == results[1]["correct"]).all()
    assert results[0]["accuracy"] > 0.95
    # Our classifier standardises; theirs cannot learn from tiny numbers.
    assert results[2]["accuracy"] < 0.8
    ours = keyword_classification(
        vectors * 1e-4, labels, vectors * 1e-4, labels
    )
    assert ours["accuracy"] > 0.95
