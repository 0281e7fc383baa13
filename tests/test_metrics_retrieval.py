"""Nearest neighbours against a double loop."""

import numpy as np
import pytest
import torch

from speechbrain_ext.metrics import retrieval
from speechbrain_ext.metrics.retrieval import nearest_value
from speechbrain_ext.utils.errors import InputError


@pytest.mark.parametrize("seed", range(6))
def test_nearest_value_equals_a_double_loop(monkeypatch, seed):
    # Two rows at a time, or all.
    monkeypatch.setattr(retrieval, "CHUNK", 150 if seed else 1 << 24)
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(61, 4)) * rng.uniform(0.1, 9, size=(61, 1))
    values, groups = rng.integers(5, size=61), rng.integers(6, size=61)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    loop = []
    for i in range(61):
        others = [j for j in range(61) if groups[j] != groups[i]]
        nearest = max(others, key=lambda j: unit[i] @ unit[j])
        loop.append(bool(values[nearest] == values[i]))
    assert 0 < sum(loop) < 61
    for one in (vectors, torch.tensor(vectors)):
        assert nearest_value(one, values, groups).tolist() == loop


@pytest.mark.parametrize(
    "vectors, values, groups, message",
    [
        (np.eye(2), "xx", "ab", "got 1 and 2"),
        (np.eye(2), "xy", "aa", "got 2 and 1"),
        (np.eye(2) * np.nan, "xy", "ab", "NaN"),
        (np.eye(2), "xyz", "ab", "values: expected"),
        (np.zeros((0, 2)), "", "", "non-empty"),
    ],
)
def test_what_is_refused(vectors, values, groups, message):
    with pytest.raises(InputError, match=message):
        nearest_value(vectors, values, groups)
