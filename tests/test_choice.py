"""Layers of each factor, shrinkage and dimensions, chosen by validation."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, cached_features, call_script, voiced
from tiny_models import save_tiny

from speechbrain_ext.augment.channel import RandomChannel
from speechbrain_ext.augment.interventions import RandomCrop, RandomSpeed
from speechbrain_ext.dataio.manifest import (
    factor_labels,
    find_recordings,
    load_manifest,
)
from speechbrain_ext.dataio.pooled_features import PooledFeatures
from speechbrain_ext.dataio.splits import split_manifest
from speechbrain_ext.evaluation.report import choice_line
from speechbrain_ext.evaluation.results import read_results
from speechbrain_ext.evaluation.systems import embed, threshold_trials
from speechbrain_ext.inference.subspaces import load_export
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.processing.adaptation import Adaptation
from speechbrain_ext.processing.choice import Choice, first_within, layer_runs
from speechbrain_ext.processing.closed_form import channel_lda
from speechbrain_ext.utils.errors import InputError

SPEAKERS, CONTENTS = np.divmod(np.arange(10 * 8), 8)
LABELS = {"speaker": SPEAKERS, "content": CONTENTS}
DIM = 6


class Layers:
    """A training grid in three takes and a validation grid, of some layers.

    Each factor has a vector per value in some layers, in some of the
    dimensions; the rest is noise.

    Arguments
    ---------
    told : dict
        Factor -> layer -> its dimensions that tell the factor.
    noise : array
        Deviation in each dimension.
    channel : array
        The same of what takes through channels have more.
    """

    def __init__(self, told, layers=4, noise=1.0, channel=0.3):
        rng = np.random.default_rng(0)
        grids = []
        for takes in (3, 2):
            x = rng.normal(size=(1, 80, layers, DIM)) * noise
            x = np.tile(x, (takes, 1, 1, 1))
            x[1:] += rng.normal(size=x[1:].shape) * channel
            for factor, found in told.items():
                for layer, dims in found.items():
                    values = rng.normal(size=(10, len(dims))) * 4
                    x[:, :, layer, dims] += values[LABELS[factor]]
            grids.append(torch.tensor(x, dtype=torch.float32))
        self.train, self.valid = grids[0], grids[1][1]
        self.trials = threshold_trials(LABELS, list(LABELS))

    def __call__(self, layers):
        return self.train[:, :, layers], self.valid[:, layers]

    def choose(
        self, choice, candidates=None, factors=None, weight=1.0, recordings=None
    ):
        """What is chosen, by default of all runs and for all factors."""
        runs = layer_runs([*range(self.train.shape[2])], choice.most_layers)
        labels = {factor: LABELS[factor] for factor in factors or LABELS}
        candidates = dict.fromkeys(labels, runs) | (candidates or {})
        return choice.on_grid(
            self, labels, self.trials, candidates, weight, recordings
        )

    def error(self, factor, layers, shrinkage, dims, weight=1.0):
        """Of the head that a training fits."""
        labels = {factor: LABELS[factor]}
        train, valid = self(layers)
        head = channel_lda(train, labels, dims, weight, shrinkage)
        trials = self.trials[factor]
        scores = trials.score(embed(head, valid)[factor])
        return equal_error_rate(scores, trials.label)[0]


ALL = [*range(DIM)]
APART = {"speaker": {2: ALL}, "content": {0: ALL}}


@pytest.mark.parametrize("layers, most, runs", [
    ([3], 3, [[3]]),
    ([0, 1, 2], 1, [[0], [1], [2]]),
    ([2, 5, 0], 2**32 - 1, [[2], [5], [0], [2, 5], [5, 0], [2, 5, 0]]),
])  # fmt: skip
def test_runs_of_layers(layers, most, runs):
    assert layer_runs(layers, most) == runs


@pytest.mark.parametrize("errors, count, deviations, wanted", [
    ([0.2, 0.1], 100, 1.0, 1),  # 0.1 + 0.03
    ([0.12, 0.1], 100, 1.0, 0),
    ([0.12, 0.1], 10000, 1.0, 1),
    ([0.12, 0.1], 100, 0.5, 1),
    ([0.1, 0.12, 0.1], 100, 0.0, 0),
    ([0.1, 0.0, 0.0], 9, 1.0, 1),  # none is as good as no error
    ([0.5, 0.5], 1, 1.0, 0),
])  # fmt: skip
def test_the_first_that_is_as_good_as_the_best(
    errors, count, deviations, wanted
):
    choices = [{"eer": error, "row": row} for row, error in enumerate(errors)]
    assert first_within(choices, count, deviations)["row"] == wanted


def test_each_factor_is_read_from_its_layer():
    """Of single layers and of several, which are not better here."""
    chosen = Layers(APART, noise=0.3).choose(Choice())
    assert {f: one["layers"] for f, one in chosen.items()} == {
        "speaker": [2],
        "content": [0],
    }
    assert all(one["eer"] < 0.05 for one in chosen.values())


def test_layers_that_tell_it_together():
    """As many neighbours as are allowed; others add nothing but noise."""
    told = {"speaker": {1: [0], 2: [0], 3: [0]}}
    layers = Layers(told, layers=6, noise=0.3)
    options = [0.3], {"speaker": 3}
    for most in (3, 4):
        chosen = layers.choose(Choice(most, *options), factors=["speaker"])
        assert chosen["speaker"]["layers"] == [1, 2, 3]
    chosen = layers.choose(Choice(2, *options), factors=["speaker"])
    assert chosen["speaker"]["layers"] in ([1, 2], [2, 3])


def test_candidates_of_each_factor():
    """What is given is not chosen; the others still are."""
    given = {"speaker": [[3]], "content": [[1], [0, 1]]}
    chosen = Layers(APART).choose(Choice(), given)
    assert chosen["speaker"]["layers"] == [3]
    assert chosen["content"]["layers"] == [0, 1]
    chosen = Layers(APART).choose(Choice(), {"speaker": [[3]]})
    assert chosen["content"]["layers"] == [0]


@pytest.mark.parametrize("order", [[1.0, 0.0], [0.0, 1.0]])
def test_shrinkages_in_the_order_of_preference(order):
    """The first where both do well; where only one does, that one."""
    plain = Layers({"speaker": {0: ALL}}, layers=1, noise=0.1)
    [one] = plain.choose(Choice(1, order), factors=["speaker"]).values()
    assert one["shrinkage"] == order[0] and one["eer"] == 0
    # Much noise in a dimension: only the covariance tells to leave it out.
    noise = [30, 0.1, 0.1, 0.1, 0.1, 0.1]
    tilted = Layers({"speaker": {0: [1, 2, 3]}}, layers=1, noise=noise)
    mixed = torch.linalg.qr(torch.randn(DIM, DIM, generator=seeded()))[0]
    tilted.train, tilted.valid = tilted.train @ mixed, tilted.valid @ mixed
    [one] = tilted.choose(Choice(1, order), factors=["speaker"]).values()
    assert one["shrinkage"] == 0.0


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("wanted, found", [
    ([1, 6], 6),  # one does not tell them
    ([6, 1], 6),
    ([5, 6], 5),  # five do
    ([6, 5], 6),
    ([99, 5], 6),  # what there is
    (3, 3),
    (None, 6),
])  # fmt: skip
def test_dimensions_in_the_order_of_preference(wanted, found):
    layers = Layers({"speaker": {0: ALL}}, layers=1, noise=0.1)
    dims = {"content": 2} | ({"speaker": wanted} if wanted else {})
    choice = Choice(1, [0.3], dims)
    chosen = layers.choose(choice)
    assert chosen["speaker"]["dims"] == found
    assert chosen["content"]["dims"] == 2


def test_as_good_but_for_chance():
    """Five dimensions err more than six, but not by a standard error."""
    layers = Layers({"speaker": {0: ALL}}, layers=1, noise=1.5)
    five, six = (layers.error("speaker", [0], 0.3, dims) for dims in (5, 6))
    assert 0 < five - six < np.sqrt(six * (1 - six) / 80)
    choice = Choice(1, [0.3], {"speaker": [5, 6]})
    [one] = layers.choose(choice, factors=["speaker"]).values()
    assert one["dims"] == 5


@pytest.mark.parametrize("weight", [0.0, 1.0, 10.0])
def test_the_error_is_that_of_the_head(weight):
    """Fitted as a training does, and measured as its thresholds are."""
    layers = Layers(APART, noise=2.0, channel=[9, 1, 1, 1, 1, 1])
    for factor, one in layers.choose(Choice(2), weight=weight).items():
        options = {key: one[key] for key in ("layers", "shrinkage", "dims")}
        wanted = layers.error(factor, weight=weight, **options)
        assert one["eer"] == pytest.approx(wanted, abs=1e-6)
        assert 0 < wanted < 0.4


def test_layers_that_say_nothing():
    """It is said which, so that others can be given."""
    for train, valid, message in (
        (0.0, 0.0, "same features"),
        (7.0, 7.0, "same features"),
        (np.nan, 1.0, "NaN"),
        (1.0, np.nan, "NaN"),
        (np.inf, 1.0, "infinite"),
    ):
        layers = Layers(APART)
        rows = slice(None) if train == valid else 3
        layers.train[:, rows, 1] *= train
        layers.valid[rows, 1] *= valid
        if train == valid:
            layers.train[:, :, 1] = train
        with pytest.raises(InputError, match=rf"^Layers \[1\]: .*{message}"):
            layers.choose(Choice())
        chosen = layers.choose(Choice(), dict.fromkeys(LABELS, [[0], [2]]))
        assert chosen["speaker"]["layers"] == [2]
    # A validation grid that is the same throughout is no better than chance.
    layers = Layers(APART, layers=3)
    layers.valid[:, 1] = 5.0
    chosen = layers.choose(Choice(1), {"content": [[1]]})
    assert chosen["content"]["eer"] == 0.5


# Layers by unlabelled recordings ------------------------------------------

MADE = {"content": RandomCrop, "channel": RandomChannel, "speaker": RandomSpeed}
ADAPTATION = Adaptation(MADE, dims={"content": 8}, n_views=1)


def recordings(told, layers=4, count=40):
    """Features of recordings of as many speakers, as Adaptation plans them.

    ``told`` is as that of :class:`Layers`; of the factor of a view, what the
    recording has of it is drawn anew.
    """
    rng = np.random.default_rng(1)
    ids = [f"r{i}" for i in range(count)]
    shape = (count, layers, DIM)
    of = {factor: rng.normal(size=shape) * 4 for factor in told}

    def view(*changed):
        x = rng.normal(size=shape)
        for factor, found in told.items():
            new = rng.normal(size=shape) * 4
            new = new if factor in changed else of[factor]
            for layer, dims in found.items():
                x[:, layer, dims] += new[:, layer, dims]
        return PooledFeatures([x], ids)

    features = {"recorded": view()}
    for factor in MADE:
        features[factor, 0] = view(factor)
    for factor in ("speaker", "content"):
        for version in range(2):
            others = [other for other in MADE if other != factor]
            features[factor, "anchor", version] = view(*others)
    return features


def test_recordings_judge_too():
    """Layers that tell a factor in both are taken before those of one."""
    told = {"speaker": {0: ALL, 1: ALL}, "content": {2: ALL, 3: ALL}}
    layers = Layers(told)
    features = recordings({"speaker": {1: ALL}, "content": {3: ALL}})
    runs = dict.fromkeys(LABELS, layer_runs([0, 1, 2, 3], 1))
    options = (lambda read: layers(read)[0][0]), LABELS, features
    errors = ADAPTATION.layer_errors(*options, runs)
    for factor, layer in (("speaker", 1), ("content", 3)):
        error = errors[factor]
        assert set(error) == {(0,), (1,), (2,), (3,)}
        assert (
            error[layer,]
            < 0.1
            < min(value for key, value in error.items() if key != (layer,))
        )
    chosen = layers.choose(Choice(1), runs, recordings=errors)
    for factor, one in chosen.items():
        assert one["layers"] == [1 if factor == "speaker" else 3]
        assert one["recordings_eer"] == errors[factor][tuple(one["layers"])]
    # The product counts, and no error is not taken for none.
    wrong = {"speaker": {(0,): 0.01, (1,): 0.01, (2,): 0.0, (3,): 0.0}}
    chosen = layers.choose(Choice(1), runs, recordings=wrong)
    assert chosen["speaker"]["layers"] == [0]
    assert "recordings_eer" not in chosen["content"]
    # Layers that say nothing, and layers of a factor that gets no subspace
    silent = torch.zeros_like(layers.train[0])
    with pytest.raises(InputError, match=r"^Layers \[0\]: .*same features"):
        ADAPTATION.layer_errors(
            lambda read: silent[:, read], *options[1:], runs
        )
    content = {"content": LABELS["content"]}
    found = ADAPTATION.layer_errors(options[0], content, features, runs)
    assert found == {"content": errors["content"]}
    # Of factors that they know; positions of an earlier head are not those of
    # the candidates.
    given = runs | {"rate": [[0], [1]]}
    labels = LABELS | {"rate": CONTENTS % 2}
    other = dataclasses.replace(ADAPTATION, layers={"speaker": [-1]})
    found = other.layer_errors(options[0], labels, features, given)
    assert found == errors


# train.py as a whole ------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An encoder of three layers, and a folder of runs."""
    work = tmp_path_factory.mktemp("many")
    save_tiny(work / "tiny", "wavlm")
    return work


@pytest.fixture(scope="module")
def train(small_grid, many):
    """A run in a folder of its own; returns what it wrote of itself."""

    def run(folder, *options):
        printed = call_script(
            ROOT / "recipes/InterventionalTTS/post-training/train.py",
            "hparams/recorded_grid.yaml",
            f"--data_folder={small_grid}",
            f"--output_folder={many / folder}",
            f"--cache_folder={many / 'features'}",
            f"--encoder_source={many / 'tiny'}",
            *("--encoder=hf_encoder", "--number_of_epochs=0", "--device=cpu"),
            *("--noprogressbar", "--augmented_takes=1"),
            "--train_block={speaker: 3, content: 4}",
            "--subspace_widths={speaker: 12, content: 10}",
            "--choice={most_layers: 2, dims: {speaker: [3, 1], content: 2}}",
            "--adaptation={n_views: 1}",
            *options,
        )
        return read_results(many / folder)["about"] | {"printed": printed}

    return run


@pytest.fixture(scope="module")
def finished(train):
    return train("out", "--number_of_epochs=2")


def inputs(many, small_grid):
    """Splits, labels and features of the runs, to do their choice by hand."""
    factors = ["speaker", "content"]
    dataset = load_manifest(small_grid / "manifest.csv")
    splits = split_manifest(dataset, by="speaker")
    ids = [splits[split] for split in ("train", "valid")]
    labels = [factor_labels(dataset, one, factors) for one in ids]
    features = cached_features(many / "features")
    takes = [features[None], features[7001]]

    def select(layers):
        trained = torch.stack([take.select(ids[0], layers) for take in takes])
        return trained, takes[1].select(ids[1], layers)

    return select, labels[0], threshold_trials(labels[1], factors)


def test_pooling_from_the_option_to_the_export(train, many, capsys):
    """Features of another pooling, in caches and an export of their own."""
    options = (
        f"--cache_folder={many / 'others'}",
        "--encoder_pooling=mean_std",
    )
    about = train("pooled", *options)
    assert about["encoder_identity"]["pooling"] == "mean_std"
    recorded = cached_features(many / "others")[None].array
    assert recorded.shape[1:] == (3, 32)
    model = load_export(many / "pooled/export")
    assert model.hparams.encoder_label == "hf_encoder-tiny-mean_std"
    pooled = model.mods.embedding_model.pooled(torch.randn(1, 8000))
    assert pooled.shape[-1] == 32
    for wrong, message in (
        (
            ("--encoder_pooling=sum",),
            "expected null or mean or mean_std or max",
        ),
        (("--encoder=log_mel", "--encoder_source=null"), "takes no pooling"),
    ):
        with pytest.raises(SystemExit):
            train("pooled", *options, *wrong)
        assert message in capsys.readouterr().err


def test_heads_have_what_was_chosen(finished, many, small_grid):
    """On the validation grid through channels, here by hand."""
    choice = Choice(2, dims={"speaker": [3, 1], "content": 2})
    runs = dict.fromkeys(LABELS, layer_runs([0, 1, 2], 2))
    wanted = choice.on_grid(*inputs(many, small_grid), runs)
    assert finished["chosen"] == wanted
    union = sorted({n for one in wanted.values() for n in one["layers"]})
    assert finished["layers"] == union
    for factor, one in wanted.items():
        found = {k: v[factor] for k, v in finished["recommended"].items()
                 if k != "channel_weight"}  # fmt: skip
        found["layers"] = [union[position] for position in found["layers"]]
        assert found == {key: one[key] for key in found}
        line = choice_line(factor, one)
        assert line in (many / "out/report.txt").read_text()
        assert line in finished["printed"]
        assert line in (many / "out/export/README.md").read_text()
    models = {
        folder: load_export(many / "out" / folder, "cpu").mods.embedding_model
        for folder in ("export", "export_published", "export_pca")
    }
    for model in models.values():
        assert model.layers == union
        assert len(model.network.standardiser.mean) == len(union)
    width = finished["recommended"]["dims"]
    assert models["export"].network.widths == width


def test_a_second_call_goes_on_with_the_same(finished, train, many):
    out = many / "out"
    names = ["results.json", "results.csv", "report.txt", "train_log.txt"]
    names += ["export_published/network.ckpt", "export/network.ckpt"]
    before = [(out / name).read_bytes() for name in names]
    kept = {p: p.stat().st_mtime_ns for p in out.glob("save/CKPT*/*")}
    assert kept
    again = train("out", "--number_of_epochs=2")
    assert again["chosen"] == finished["chosen"]
    assert before == [(out / name).read_bytes() for name in names]
    assert kept == {p: p.stat().st_mtime_ns for p in out.glob("save/CKPT*/*")}


def test_checkpoints_of_other_layers(finished, train, many, capsys):
    """As many layers make a network of the same shape."""
    claimed = many / "out/save/layers.json"
    before = claimed.read_text()
    assert json.loads(before) == {"layers": finished["layers"]}
    claimed.write_text('{"layers": [9]}')
    with pytest.raises(SystemExit):
        train("out", "--number_of_epochs=2")
    assert "another layers ([9], now" in capsys.readouterr().err
    claimed.write_text(before)


def test_layers_that_are_given(train):
    """The network has all of them, the closed form runs of them."""
    about = train("one", "--layers=[1]")
    assert about["layers"] == [1]
    assert [one["layers"] for one in about["chosen"].values()] == [[1]] * 2
    about = train("ends", "--layers=[2, 0]", "--choice={most_layers: 1}")
    assert about["layers"] == [2, 0]
    for factor, one in about["chosen"].items():
        [position] = about["recommended"]["layers"][factor]
        assert one["layers"] == [about["layers"][position]]
    # Nothing is chosen: the option file has it all.
    about = train("fixed", "--layers=[0, 2]", "--choice=null")
    assert about["chosen"] == {}
    assert "dims" not in about["recommended"]
    # Or no head takes it.
    nothing = ("--recommended=null", "--exported=published")
    about = train("published", *nothing, "--layers=[0]", "--number_of_epochs=1")
    assert about["chosen"] == {} and about["layers"] == [0]


def test_what_stands_in_the_option_file_is_not_chosen(train):
    """All of it, or some; positions are counted in all layers."""
    given = "{shrinkage: 0.3, layers: {speaker: [-1]}, dims: {speaker: 1}}"
    about = train("given", f"--recommended={given}")
    speaker, content = (about["chosen"][factor] for factor in LABELS)
    assert speaker["layers"] == [2] and speaker["dims"] == 1
    assert speaker["shrinkage"] == content["shrinkage"] == 0.3
    assert content["dims"] == 2  # still that of choice
    assert about["recommended"]["shrinkage"] == dict.fromkeys(LABELS, 0.3)
    given = "{layers: {speaker: [0, 2], content: [1]}, dims: 2}"
    about = train("both", f"--recommended={given}", "--factors=[speaker]")
    assert about["layers"] == [0, 2] and list(about["chosen"]) == ["speaker"]
    assert about["recommended"]["layers"] == {"speaker": [0, 1]}
    assert about["recommended"]["dims"] == {"speaker": 2}


def test_recordings_decide_in_a_run(
    finished, train, many, small_grid, tmp_path, capsys
):
    """Which are then those of the run, as long as layers are chosen."""
    for number in range(24):
        wave = voiced(number, number % 5, number, 1.2)
        soundfile.write(tmp_path / f"{number:02}.wav", wave, 16000)
    own = f"--cache_folder={tmp_path / 'features'}"
    about = train("mine", own, f"--unlabelled={tmp_path}")
    assert "To adapt to: " in about["printed"]
    model = load_export(many / "mine/export", "cpu", trust=True)
    assert model.hparams.threshold_origin == "recordings"
    adaptation = dataclasses.replace(model.hparams.adaptation, layers=None)
    planned = adaptation.plan(
        find_recordings(tmp_path),
        model.mods.embedding_model.encoder,
        list(LABELS),
        cache_folder=tmp_path / "features",
        progress=False,
    )
    select, labels, trials = inputs(many, small_grid)
    runs = dict.fromkeys(LABELS, layer_runs([0, 1, 2], 2))
    errors = adaptation.layer_errors(
        lambda layers: select(layers)[0][0],
        labels,
        {view: extract() for view, extract in planned.items()},
        runs,
    )
    for factor, one in about["chosen"].items():
        assert one["recordings_eer"] == errors[factor][tuple(one["layers"])]
    # A second call finds all views, and chooses the same.
    again = train("mine", own, f"--unlabelled={tmp_path}")
    assert "recorded, content-0, channel-0" in again["printed"]
    assert again["chosen"] == about["chosen"]
    # Another choice might be made with these, or by these otherwise.
    more = shutil.copytree(tmp_path, many / "more")
    soundfile.write(more / "00.wav", voiced(30, 1, 1, 1.2), 16000)
    for options, message in (
        ([f"--unlabelled={more}"], "another unlabelled"),
        ([], "another unlabelled"),
        (
            [f"--unlabelled={tmp_path}", "--adaptation={seed: 1}"],
            "another adaptation",
        ),
    ):
        with pytest.raises(SystemExit):
            train("mine", own, *options)
        assert message in capsys.readouterr().err
