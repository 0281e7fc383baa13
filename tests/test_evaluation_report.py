"""Content accuracy, tables and JSON."""

import json

import numpy as np
import pytest
import torch

from speechbrain_ext.evaluation import content
from speechbrain_ext.evaluation.content import content_accuracy, nearest_value
from speechbrain_ext.evaluation.report import (
    evaluate_system,
    format_table,
    to_json,
    write_json,
)
from speechbrain_ext.evaluation.uncertainty import SpeakerResamples
from speechbrain_ext.evaluation.verification import generate_trials
from speechbrain_ext.utils.errors import InputError


def test_nearest_value_equals_a_double_loop(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 4))
    values, groups = rng.integers(5, size=60), rng.integers(6, size=60)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    loop = []
    for i in range(60):
        others = [j for j in range(60) if groups[j] != groups[i]]
        nearest = max(others, key=lambda j: unit[i] @ unit[j])
        loop.append(bool(values[nearest] == values[i]))
    assert nearest_value(vectors, values, groups).tolist() == loop
    monkeypatch.setattr(content, "CHUNK", 150)  # two rows at a time
    assert nearest_value(vectors, values, groups).tolist() == loop
    result = content_accuracy(torch.tensor(vectors), values, groups)
    assert result == {"accuracy": np.mean(loop), "chance": 0.2}


def test_content_accuracy_of_pure_subspaces():
    speakers, contents = np.repeat(np.arange(5), 7), np.tile(np.arange(7), 5)
    assert content_accuracy(np.eye(7)[contents], contents, speakers) == {
        "accuracy": 1.0,
        "chance": 1 / 7,
    }
    noise = np.random.default_rng(0).normal(size=(35 * 40, 8))
    speakers, contents = np.tile(speakers, 40), np.tile(contents, 40)
    accuracy = content_accuracy(noise, contents, speakers)["accuracy"]
    assert accuracy == pytest.approx(1 / 7, abs=0.03)


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
def test_content_accuracy_refuses(vectors, values, groups, message):
    with pytest.raises(InputError, match=message):
        content_accuracy(vectors, values, groups)


def small_results():
    speakers, contents = np.repeat([0, 1, 2], 4), np.tile([0, 1, 2, 3], 3)
    trials = generate_trials(speakers, contents)
    vectors = {
        "speaker": torch.eye(3)[speakers],
        "content": torch.eye(4)[contents],
    }
    conditions = {"clean": vectors, "shifted": vectors}
    system = evaluate_system(conditions, speakers, contents, trials)
    return {
        "encoder": "log_mel",
        "grid": {"factors": {"speaker": 3, "content": 4}, "utterances": 12},
        "systems": {"joint": system, "partial": {"subspaces": {"speaker": {}}}},
    }


def test_evaluate_system_has_the_documented_layout():
    subspaces = small_results()["systems"]["joint"]["subspaces"]
    assert list(subspaces) == ["speaker", "content"]
    speaker, content = subspaces["speaker"], subspaces["content"]
    assert (speaker["dim"], content["dim"]) == (3, 4)
    for condition in ("clean", "shifted"):
        assert speaker[condition]["verification"] == {
            "eer": 0.0,
            "min_dcf": 0.0,
            "trials": 54,
        }
        assert content[condition]["content"] == {
            "accuracy": 1.0,
            "chance": 0.25,
        }
    # Pairs of different content: the content says nothing of the speaker.
    assert content["clean"]["verification"]["eer"] == 0.5


def test_table_shows_numbers_and_gaps():
    lines = format_table(small_results()).splitlines()
    row = next(line for line in lines if line.startswith("joint    speaker"))
    assert row.split()[2:6] == ["3", "0.00", "0.00", "0.000"]
    row = next(line for line in lines if line.startswith("partial"))
    assert row.split()[2:] == ["-"] * 7
    assert "25.0 %" in lines[-2]


def test_json_is_plain_complete_and_atomic(tmp_path):
    path = tmp_path / "a" / "results.json"
    results = small_results()
    write_json(path, results)
    assert json.loads(path.read_text()) == to_json(results)
    with pytest.raises(TypeError):
        write_json(path, {"bad": object()})
    assert json.loads(path.read_text()) == to_json(results)
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_json_of_arrays_and_numbers_that_are_none():
    assert to_json(
        {1: torch.tensor([1.5, float("inf")]), "a": (np.float32(2), np.nan)}
    ) == {"1": [1.5, None], "a": [2.0, None]}


def test_intervals_are_added_on_demand():
    rng = np.random.default_rng(0)
    speakers, contents = np.repeat(np.arange(9), 6), np.tile(np.arange(6), 9)
    trials = generate_trials(speakers, contents)
    vectors = rng.normal(size=(9, 4))[speakers] + rng.normal(size=(54, 4))
    resamples = SpeakerResamples(speakers, 60)
    system = evaluate_system(
        {"clean": {"s": vectors}}, speakers, contents, trials, resamples
    )
    measured = system["subspaces"]["s"]["clean"]
    for measure, key in (("verification", "eer"), ("content", "accuracy")):
        low, high = measured[measure]["interval"]
        assert low < measured[measure][key] < high
