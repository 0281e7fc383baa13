"""The published protocol: what it fixes, and its keyword classifier."""

import numpy as np
import pytest
import torch

from speechbrain_ext.evaluation.published import (
    PublishedClassifier,
    load_protocol,
)
from speechbrain_ext.metrics.keywords import keyword_classification
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
    assert protocol["conditions"] == ["recorded"]
    assert protocol["silence"] == {"train": 1800, "valid": 200, "test": 0}
    assert (classifier.epochs, classifier.batch_size) == (30, 64)
    assert classifier.learning_rate == 1e-3
    assert not protocol["needs_cohort"]


@pytest.mark.parametrize(
    "option, message",
    [
        ({"protocol": "other"}, "hparams/protocols: expected one of published"),
        ({"scoring": "s-norm"}, "scoring is 's-norm': expected cosine"),
        ({"domain_statistics": "target"}, "domain_statistics is"),
        ({"conditions": ["channels"]}, "some of recorded"),
        ({"tasks": ["leakage"]}, "some of verification, keywords"),
        ({"trials": None}, "needs a trial list"),
        ({"speech_commands": False}, "needs Speech Commands"),
    ],
)
def test_what_it_does_not_leave_open(option, message):
    with pytest.raises(InputError, match=message):
        load_protocol(OPTIONS | option)
    if "trials" in option:  # which VoxCeleb1's folder has
        load_protocol(OPTIONS | option | {"voxceleb1": True})


@pytest.mark.parametrize("scoring", ["s-norm", "plda"])
def test_without_it_all_conditions_and_scorings_may_be_chosen(scoring):
    options = OPTIONS | {"protocol": None, "scoring": scoring}
    options |= {"cohort_split": None, "cohort_data": None}
    protocol = load_protocol(options | {"cohort_split": "valid"})
    load_protocol(options | {"cohort_data": "GRID"})
    assert protocol["ratios"] == (scoring == "plda")
    assert protocol["conditions"] == ["recorded", "channels"]
    assert protocol["needs_cohort"] and "silence" not in protocol
    with pytest.raises(InputError, match=f"'{scoring}' needs a cohort"):
        load_protocol(options)


def test_classifier_is_that_of_the_recipe():
    """Against gradients written out, on the same draw, start and order."""
    vectors = torch.tensor(np.random.default_rng(0).normal(size=(90, 5)))
    codes = torch.tensor([0, 1, 2]).repeat_interleave(
        torch.tensor([70, 10, 10])
    )
    model = PublishedClassifier(epochs=2, batch_size=32, seed=3)
    model.fit(vectors, codes)
    generator = torch.Generator().manual_seed(3)
    weights = 1 / torch.bincount(codes)[codes].double()
    drawn = weights.multinomial(90, replacement=True, generator=generator)
    torch.manual_seed(3)
    layer = torch.nn.Linear(5, 3).double()
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-3)
    for _ in range(2):
        for rows in torch.randperm(90, generator=generator).split(32):
            x, y = vectors[drawn[rows]], codes[drawn[rows]]
            error = layer(x).softmax(dim=1).detach() - torch.eye(3)[y]
            layer.weight.grad = error.T @ x / len(rows)
            layer.bias.grad = error.mean(dim=0)
            optimiser.step()
    for one, other in zip(model.layer.parameters(), layer.parameters()):
        assert torch.allclose(one.double(), other, atol=1e-5)
    assert model.predict(vectors).tolist() == layer(vectors).argmax(1).tolist()


def test_deterministic_and_not_standardised():
    rng = np.random.default_rng(0)
    labels = np.tile(list("abc"), 40)
    vectors = np.tile(rng.normal(size=(3, 8)), (40, 1))
    vectors += 0.1 * rng.normal(size=(120, 8))
    state = torch.get_rng_state()

    def predicted(scale, **options):
        data = vectors * scale, labels
        return keyword_classification(*data, *data, **options)["predicted"]

    theirs = {"make_classifier": PublishedClassifier}
    first = predicted(10, **theirs)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(predicted(10, **theirs), first)
    assert np.mean(first == labels) > 0.95
    # Our classifier standardises; theirs cannot learn from tiny numbers.
    assert np.mean(predicted(1e-4) == labels) > 0.95
    assert np.mean(predicted(1e-4, **theirs) == labels) < 0.8
