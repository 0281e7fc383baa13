"""Heads that are fitted to unlabelled recordings, and their thresholds."""

import dataclasses
import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import voiced, write_manifest
from helpers import build_export, contents

from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain_ext.augment.channel import RandomChannel
from speechbrain_ext.augment.interventions import RandomCrop, RandomSpeed
from speechbrain_ext.dataio.manifest import find_recordings
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.inference.subspaces import load_export
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.processing.adaptation import Adaptation
from speechbrain_ext.processing.closed_form import channel_lda
from speechbrain_ext.utils.errors import InputError

ADAPTATION = Adaptation(
    {"content": RandomCrop, "channel": RandomChannel, "speaker": RandomSpeed},
    dims={"speaker": 8, "content": 8},
    layers={"speaker": [0], "content": [-1]},
    shrinkages=[0.3, 0.6],
    n_views=1,
)
RATE = 0.1  # that so few recordings can tell


def say(folder, speakers, words=2, seconds=1.0, alike=False):
    """Recordings of several words each, by voices of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(speakers):
        first = 0 if alike else 3 * number
        wave = np.concatenate(
            [
                voiced(number, said % 7, number, seconds / words)
                for said in range(first, first + words)
            ]
        )
        soundfile.write(folder / f"sprecher {number:02}ä.wav", wave, 16000)
    return folder


def write(folder, adaptation=ADAPTATION, factors=("speaker", "content")):
    """An export of a closed form of a tiny grid."""
    encoder = load_encoder("log_mel")
    speakers, words = np.divmod(np.arange(6 * 5), 5)
    waves = [voiced(s, w) for s, w in zip(speakers, words)]
    waves = torch.tensor(np.stack(waves))
    channel = RandomChannel(5)
    moved = torch.stack([channel(x, str(i)) for i, x in enumerate(waves)])
    takes = torch.stack([encoder(x)[:, [0]] for x in (waves, moved)])
    labels = {"speaker": speakers, "content": words, "rate": words % 2}
    labels = {factor: labels[factor] for factor in factors}
    head = channel_lda(takes, labels, 8, layers=adaptation.layers)
    export_subspaces(
        folder,
        encoder,
        head,
        [-1],
        name="grid",
        thresholds=dict.fromkeys(factors, 0.5),
        adaptation=adaptation,
        card="# A card\n",
    )
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """An export, recordings, and two of them."""
    work = tmp_path_factory.mktemp("adaptation")
    say(work / "zwei Ämter", 26)
    write(work / "export")
    return work


def adapt(work, source="zwei Ämter", export="export", **options):
    options = {"false_accepts": RATE, "progress": False} | options
    source = work / source if isinstance(source, str) else source
    return load_export(work / export).adapt(source, **options)


@pytest.fixture(scope="module")
def adapted(work):
    return adapt(work)


def wav(work, number):
    return work / f"zwei Ämter/sprecher {number:02}ä.wav"


def embedded(model, work, subspace="speaker"):
    files = [wav(work, number) for number in range(6)]
    return torch.cat([model.encode_file(file, subspace)[0] for file in files])


def same(one, other, work, tolerance=0.0):
    """Whether two models decide the same."""
    assert one.subspaces == other.subspaces
    for name in one.subspaces:
        found = embedded(one, work, name), embedded(other, work, name)
        assert torch.allclose(*found, rtol=tolerance, atol=tolerance)
        found = [x.hparams.false_accepts.get(name) for x in (one, other)]
        assert found[0] == pytest.approx(found[1], abs=tolerance)
    thresholds = pytest.approx(other.hparams.thresholds, abs=tolerance)
    assert one.hparams.thresholds == thresholds
    assert one.hparams.threshold_origin == other.hparams.threshold_origin
    return True


def test_a_model_of_its_own(work):
    """The source, on the disk and in memory, stays what it was."""
    before, model = contents(work / "export"), load_export(work / "export")
    vectors, options = embedded(model, work), dict(vars(model.hparams))
    adapted = model.adapt(work / "zwei Ämter", progress=False)
    assert contents(work / "export") == before
    assert torch.equal(embedded(model, work), vectors)
    assert vars(model.hparams) == options and len(options["sources"]) == 1
    assert model.card == "# A card\n"
    assert not np.allclose(embedded(adapted, work)[:, :5], vectors[:, :5])
    modules = [x.mods.embedding_model for x in (model, adapted)]
    assert modules[0].layers == modules[1].layers
    assert modules[0].encoder is modules[1].encoder
    # What is done to the one later on does nothing to the other.
    adapted.estimate_statistics(work / "zwei Ämter")
    assert torch.equal(embedded(model, work), vectors)


def test_the_head_that_is_wanted(work, adapted):
    """Standardised as the recordings, each factor of its own directions."""
    encoder, network = load_encoder("log_mel"), adapted.mods.embedding_model
    waves = [
        soundfile.read(wav(work, i), dtype="float32")[0] for i in range(26)
    ]
    features = torch.cat([encoder(torch.tensor(x)[None]) for x in waves])
    standardiser = network.network.standardiser
    assert torch.allclose(standardiser.mean, features.mean(dim=0), atol=1e-3)
    assert adapted.hparams.name == "grid_adapted"
    assert network.network.widths == {"speaker": 8, "content": 8}
    names = [source.name for source in adapted.hparams.sources]
    assert names == ["grid", "zwei_Ämter"]
    for known in adapted.hparams.false_accepts.values():
        assert sorted(known.values(), reverse=True) == list(known.values())
        assert set(known) == {0.01, 0.02, 0.05, 0.1, 0.2}
    assert adapted.hparams.thresholds == {
        name: known[RATE]
        for name, known in adapted.hparams.false_accepts.items()
    }


def test_speakers_are_told_apart(work, adapted):
    """New words of the same voice score higher than other voices."""
    parts = []
    for take in (50, 60):
        waves = [voiced(n, (n + take) % 7, take, 1.0) for n in range(26)]
        found = adapted.encode_batch(np.stack(waves), subspace="speaker")
        parts.append(torch.nn.functional.normalize(found[:, 0]))
    scores = parts[0] @ parts[1].T
    far = (torch.arange(26)[:, None] - torch.arange(26)).abs() > 6
    assert scores.diag().mean() > scores[far].mean() + 0.5


def test_saved_and_loaded(work, adapted, tmp_path, caplog):
    adapted.save(tmp_path / "saved")
    model = load_export(tmp_path / "saved")
    assert same(model, adapted, work)
    stock = EncoderClassifier.from_hparams(source=str(tmp_path / "saved"))
    signal = torch.tensor(soundfile.read(wav(work, 0), dtype="float32")[0])
    found = stock.encode_batch(signal[None])
    assert torch.allclose(found, adapted.encode_batch(signal), atol=1e-5)
    assert vars(stock.hparams)["thresholds"] == adapted.hparams.thresholds
    # And from there as from the model that was never saved
    again = [
        one.adapt(work / "zwei Ämter", progress=False, false_accepts=RATE)
        for one in (model, adapted)
    ]
    for name in again[0].subspaces:
        assert again[0].hparams.thresholds[name] == pytest.approx(
            again[1].hparams.thresholds[name], abs=1e-3
        )
    assert caplog.text.count("was fitted to these 26 recordings before") == 2
    names = [source.name for source in again[0].hparams.sources]
    assert names == ["grid", "zwei_Ämter", "zwei_Ämter"]
    assert again[0].hparams.name == "grid_adapted"
    again[0].save(tmp_path / "saved")
    assert len(load_export(tmp_path / "saved").hparams.sources) == 3
    assert again[0].card.count("## Adapted to zwei_Ämter") == 2


def test_what_recordings_may_be(work, adapted, tmp_path):
    """A folder, a list of paths, a manifest, a dataset: all the same."""
    files = sorted((work / "zwei Ämter").iterdir())
    rows = [{"ID": path.name, "wav": path} for path in files]
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    dataset = find_recordings(work / "zwei Ämter")
    for source in (manifest, tmp_path, dataset):
        assert same(adapt(work, source, cache_folder=tmp_path), adapted, work)
    # IDs are other ones here, and interventions depend on them.
    listed = (
        adapt(work, files),
        adapt(work, [*map(str, files)], num_workers=1, batch_size=5),
    )
    assert same(*listed, work, 1e-4)
    assert listed[0].hparams.sources[-1].name == "recordings"
    total = [
        x.hparams.sources[-1].between["speaker"] for x in (listed[0], adapted)
    ]
    assert np.allclose(*total, rtol=1e-4, atol=1e-4)


def test_the_card_tells(adapted):
    for text in (
        "# A card\n",
        "## Adapted to zwei_Ämter",
        "26 recordings without labels, 0.01 h",
        "for 10 % of false acceptance",
        f"{adapted.hparams.thresholds['speaker']:.3f}",
    ):
        assert text in adapted.card


def test_decisions(work, adapted, caplog):
    """A pair is accepted above the threshold of the rate."""
    pair = wav(work, 3), wav(work, 4)
    known = adapted.hparams.false_accepts["content"]
    for rate, threshold in known.items():
        score, same = adapted.verify_files(*pair, "content", rate)
        assert bool(same) == (float(score) > threshold)
    assert (
        adapted.verify_files(*pair)[1]
        == adapted.verify_files(*pair, false_accepts=RATE)[1]
    )
    assert "may accept strangers" not in caplog.text
    accepted = {
        rate: np.mean(
            [
                bool(
                    adapted.verify_files(
                        wav(work, i), wav(work, j), None, rate
                    )[1]
                )
                for i in range(0, 26, 3)
                for j in range(i + 1, 26, 3)
            ]
        )
        for rate in (0.02, 0.2)
    }
    assert accepted[0.02] <= accepted[0.2] < 0.5


@pytest.mark.parametrize("rate", [0.03, True, "0.05", None, 0.001])
def test_rates_that_are_not_known(work, adapted, rate):
    if rate is not None:
        with pytest.raises(InputError, match=r"^false_accepts is .*0.05 or"):
            adapted.verify_files(wav(work, 0), wav(work, 1), None, rate)
    if rate != 0.001:  # known, but only to more recordings
        with pytest.raises(InputError, match=r"^false_accepts is .*0.05 or"):
            adapt(work, false_accepts=rate)


def test_no_rates_without_recordings(work):
    model = load_export(work / "export")
    with pytest.raises(InputError, match=r"no thresholds of .* adapt it to"):
        model.verify_files(wav(work, 0), wav(work, 1), false_accepts=0.05)


def test_too_few_for_the_rate(work):
    """No threshold is better than one of nothing; it is said at once."""
    with pytest.raises(InputError, match="26 .* too few pairs .* 0.001"):
        adapt(work, false_accepts=0.001)


def test_calibration(work, adapted, tmp_path, caplog):
    pairs = [
        (wav(work, i), wav(work, j), j - i < 4)
        for i in range(0, 26, 2)
        for j in range(i + 1, 26, 3)
    ]
    before = load_export(work / "export")
    vectors = embedded(before, work)
    model = before.calibrate(iter(pairs), "speaker")
    assert "speaker" not in before.hparams.calibration
    model.save(tmp_path / "saved")
    model = load_export(tmp_path / "saved")
    for pair in pairs[:9]:
        ratio = model.log_likelihood_ratio(*pair[:2])
        score, same = model.verify_files(*pair[:2])
        assert bool(ratio > 0) == bool(same)
        scale, offset = model.hparams.calibration["speaker"]
        assert float(ratio) == pytest.approx(scale * float(score) + offset)
    assert f"on {len(pairs)} pairs: Cllr" in model.card
    # The other subspace's threshold is still that of the grid.
    assert "may accept strangers" not in caplog.text
    model.verify_files(*pairs[0][:2], "content")
    assert "may accept strangers" in caplog.text
    with pytest.raises(InputError, match="'content' is not calibrated"):
        model.log_likelihood_ratio(*pairs[0][:2], "content")
    # Its statistics are its own, and nothing outlives them.
    adapted = adapted.calibrate(pairs)
    adapted.estimate_statistics(work / "zwei Ämter")
    for name in ("thresholds", "false_accepts", "calibration"):
        assert getattr(adapted.hparams, name) == {}
    calibrated = before.calibrate(pairs)
    calibrated.estimate_statistics(say(tmp_path / "few", 3, seconds=0.4))
    assert torch.equal(embedded(before, work), vectors)


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([(1, 2, 1), (2, 3, 1)], "need target and non-target"),
        ([(1, 2, 1), (1, 2, 0)], "not above those of others"),
        ([(1, 2, "yes"), (2, 3, "no")], "labels must be 1"),
        ([(1, 2)], "is not .path, other path, whether"),
        ([], "need target and|one score and one label"),
    ],
)
def test_pairs_that_tell_nothing(work, pairs, message):
    pairs = [(*(wav(work, n) for n in p[:2]), *p[2:]) for p in pairs]
    with pytest.raises(InputError, match=message):
        load_export(work / "export").calibrate(pairs)


def test_recordings_that_tell_nothing(work, tmp_path):
    say(tmp_path / "few", 19, seconds=0.2)
    (tmp_path / "empty").mkdir()
    for source, message in (
        ("few", "19 recordings are too few"),
        ("empty", "No recordings in .*empty"),
        ("absent", "No manifest .*absent"),
        ([], "No recordings in"),
        (None, "Recordings are a folder, .* got None"),
        ([1, 2], "Recordings are a folder, .* got"),
        ([tmp_path / "no.wav"] * 30, "no file .*no.wav"),
    ):
        source = tmp_path / source if isinstance(source, str) else source
        with pytest.raises(InputError, match=message) as raised:
            adapt(work, source)
        assert "\n" not in str(raised.value)
    say(tmp_path / "short", 22, seconds=0.05)
    with pytest.raises(InputError, match="'content' changes nothing"):
        adapt(work, tmp_path / "short")
    for number in range(22):
        shutil.copy(wav(work, 0), tmp_path / f"few/{number}.wav")
    for path in (tmp_path / "few").glob("sprecher*"):
        path.unlink()
    with pytest.raises(InputError, match="All .* have the same features"):
        adapt(work, tmp_path / "few")
    soundfile.write(tmp_path / "few/0.wav", [np.nan] * 9000, 16000, "FLOAT")
    with pytest.raises(InputError, match="0.wav.* NaN"):
        adapt(work, tmp_path / "few")


def test_a_subspace_that_tells_nothing_is_warned_of(work, tmp_path, caplog):
    """All say the same, so two recordings agree as versions of one do."""
    alone = dataclasses.replace(ADAPTATION, weights=[0.0])
    write(tmp_path / "export", alone)
    adapt(tmp_path, work / "zwei Ämter")
    assert "versions of one" not in caplog.text
    adapt(tmp_path, say(tmp_path / "alike", 26, alike=True))
    assert "Subspace 'content': versions of one" in caplog.text
    assert "Subspace 'speaker': versions of one" not in caplog.text


@pytest.mark.parametrize("twice, dims", [(0, 8), (20, 8), (0, 999)])
def test_rates_hold_for_strangers(work, tmp_path, twice, dims):
    """Also where some voices are heard twice, which nobody tells.

    And with all dimensions that few recordings can tell.
    """

    def voice(number, words, seed=0):
        rng = np.random.default_rng([seed, number])
        gains = np.exp(rng.normal(size=40))  # of its harmonics
        pitch, time = rng.uniform(90, 250), np.arange(12000) / 16000
        said = np.random.default_rng(words)
        wave = sum(
            gain * np.exp(0.3 * said.normal()) * np.sin(k * pitch * time * 6.28)
            for k, gain in enumerate(gains, 1)
            if k * pitch < 7000
        )
        return 0.3 * wave / np.abs(wave).max() + 0.003 * said.normal(size=12000)

    for number in range(64):
        wave = voice(number % (64 - twice), number)
        soundfile.write(tmp_path / f"{number}.wav", wave, 16000)
    model = load_export(work / "export")
    model.hparams.adaptation.dims["speaker"] = dims
    model = model.adapt(tmp_path, progress=False)
    new = np.stack([voice(n, n, 7) for n in range(100)]).astype(np.float32)
    found = torch.nn.functional.normalize(model.encode_batch(new)[:, 0])
    scores = (found @ found.T)[torch.triu_indices(100, 100, 1).unbind()]
    for rate in (0.01, 0.02, 0.05, 0.1, 0.2):
        threshold = model.hparams.false_accepts["speaker"][rate]
        assert rate / 2 < (scores > threshold).float().mean() < 2 * rate


def test_exports_that_cannot_be_adapted(work, tmp_path):
    build_export(tmp_path / "network", load_encoder("log_mel"))
    with pytest.raises(InputError, match="is not a closed form that was"):
        adapt(tmp_path, work / "zwei Ämter", "network")
    write(
        tmp_path / "other",
        dataclasses.replace(ADAPTATION, seed=1),
        ("speaker",),
    )
    assert (tmp_path / "other/sources.ckpt").is_file()
    for change in (
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: shutil.copy(tmp_path / "other/sources.ckpt", path),
    ):
        export = shutil.copytree(
            work / "export", tmp_path / "damaged", dirs_exist_ok=True
        )
        change(export / "sources.ckpt")
        for load in (load_export, EncoderClassifier.from_hparams):
            with pytest.raises(
                InputError, match="sources.ckpt is not the file"
            ):
                load(str(export))


def test_recordings_twice(work, tmp_path):
    """Copies of each, whose cosine is 1, make a model that can be loaded."""
    for path in (work / "zwei Ämter").iterdir():
        for number in range(3):
            shutil.copy(path, tmp_path / f"{path.stem}{number}.wav")
    model = adapt(work, tmp_path, false_accepts=0.01)
    model.save(tmp_path / "saved")
    assert same(load_export(tmp_path / "saved"), model, work)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("false_accepts: {}", "false_accepts: 3", "false_accepts is 3"),
        (
            "false_accepts: {}",
            "false_accepts: {speaker: {0.01: x}}",
            "false_acc",
        ),
        ("calibration: {}", "calibration: {speaker: [1]}", "calibration is"),
        ('origin: "grid"', "origin: moon", "threshold_origin is 'moon'"),
    ],
)
def test_damaged_decisions(work, tmp_path, old, new, message):
    export = shutil.copytree(work / "export", tmp_path / "export")
    path = export / "hyperparams.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        load_export(export)


def test_a_factor_of_which_recordings_tell_nothing(work, tmp_path):
    """Its subspace stays what it was."""
    write(tmp_path / "three", factors=("speaker", "content", "rate"))
    model = load_export(tmp_path / "three")
    adapted = model.adapt(
        work / "zwei Ämter", progress=False, false_accepts=RATE
    )
    assert adapted.subspaces == model.subspaces
    assert set(adapted.hparams.false_accepts) == {"speaker", "content"}
    known = [x.hparams.thresholds["rate"] for x in (adapted, model)]
    assert known[0] == known[1]
    found, before = (embedded(x, work, "rate") for x in (adapted, model))
    assert torch.allclose(found, before, atol=1e-3)
    with pytest.raises(InputError, match="for subspace 'rate'"):
        adapted.verify_files(wav(work, 0), wav(work, 1), "rate", 0.05)
    adapted.save(tmp_path / "saved")
    assert same(load_export(tmp_path / "saved"), adapted, work)


def test_other_adaptations(work, tmp_path, caplog):
    """One factor; few views and anchors; what makes no anchors is refused."""
    some = {"content": RandomCrop, "speaker": RandomSpeed}
    one = dataclasses.replace(ADAPTATION, interventions=some, n_anchors=22)
    write(tmp_path / "one", one, ("speaker",))
    model = adapt(tmp_path, work / "zwei Ämter", "one")
    assert list(model.hparams.thresholds) == ["speaker"]
    for change, message in (
        ({"interventions": {"speaker": RandomSpeed}}, "anything but 'speaker'"),
        ({"n_anchors": 3}, "adaptation: n_anchors is 3: .* of 22 or more"),
        ({"layers": {"speaker": [4]}}, r"layers \[4\] of factor 'speaker'"),
        ({"layers": {"speaker": [0, 0]}}, "layers of the factor must be the"),
        ({"shrinkages": [2.0]}, r"adaptation: shrinkages is \[2.0\]"),
        ({"weights": []}, r"adaptation: weights is \[\]"),
        ({"n_views": 0}, "adaptation: n_views is 0"),
        ({"dims": {"speaker": 0}}, "adaptation: dims is .*'speaker': 0"),
        ({"differ_in": "spekaer"}, "differ_in is 'spekaer'"),
    ):
        model = load_export(tmp_path / "one")
        model.hparams.adaptation = dataclasses.replace(one, **change)
        with pytest.raises(InputError, match=message):
            model.adapt(work / "zwei Ämter", progress=False)


def test_halves_and_anchors(work):
    """Anchors are of both halves; each half is a different one."""
    one = dataclasses.replace(ADAPTATION, n_anchors=22)
    dataset = find_recordings(work / "zwei Ämter")
    encoder = load_encoder("log_mel")
    planned = one.plan(dataset, encoder, ["speaker"])
    few = planned["speaker", "anchor", 0].args[0]
    assert list(few.data) == [key for key in dataset.data if key in few.data]
    halves = one._halves(26)
    ids = list(dataset.data)
    for half in halves:
        assert len({ids[row] for row in half} & set(few.data)) == 11
    assert sorted(np.concatenate(halves).tolist()) == list(range(26))
    # Each intervention with another seed
    seeds = {
        str(extract.keywords["channel"].identity)
        for name, extract in planned.items()
        if name != "recorded"
    }
    assert len(seeds) == len(planned) - 1


class OtherCrop(RandomSpeed):
    """A cut of somebody else."""


def test_versions_are_of_disjoint_halves(work):
    """So that they do not agree in what is said; views stay random parts."""
    plan = dataclasses.replace(ADAPTATION, n_views=2).plan(
        find_recordings(work / "zwei Ämter"),
        load_encoder("log_mel"),
        ["speaker", "content"],
    )
    made = {name: one.keywords["channel"] for name, one in plan.items()}
    for version in range(2):
        crop, *others = made["speaker", "anchor", version].parts
        assert type(crop) is RandomCrop and crop.half == version
        assert made["content", version].half is None
        assert all(type(other) is RandomChannel for other in others)
        kinds = map(type, made["content", "anchor", version].parts)
        assert {*kinds} == {RandomChannel, RandomSpeed}
    # Nothing is known of other classes.
    made = {"content": OtherCrop, "channel": RandomChannel}
    other = dataclasses.replace(ADAPTATION, interventions=made).plan(
        find_recordings(work / "zwei Ämter"),
        load_encoder("log_mel"),
        ["speaker"],
    )
    for version in range(2):
        chain = other["speaker", "anchor", version].keywords["channel"]
        assert type(chain.parts[0]) is OtherCrop


def test_names_of_recordings(work, tmp_path, monkeypatch):
    """Which become names of folders."""
    for name in ("a/b", "a\nb", "", 3):
        with pytest.raises(InputError, match="name is .* in one line"):
            adapt(work, name=name)
    model = adapt(work, name="ü " * 150, cache_folder=tmp_path / "cache")
    assert model.hparams.sources[-1].name == "ü " * 150
    monkeypatch.chdir(work / "zwei Ämter")
    sources = load_export(work / "export").adapt(".", progress=False)
    assert sources.hparams.sources[-1].name == "zwei_Ämter"
