"""train.py as a whole, on a small recorded grid and on the Arabic one."""

import functools
import itertools
import json
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import (
    ROOT,
    cached_features,
    call_script,
    load_script,
    pick,
    voiced,
)
from helpers import read_table, two_processes
from huggingface_hub import ModelCard

from speechbrain_ext.augment.channel import RandomChannel
from speechbrain_ext.dataio.manifest import (
    factor_labels,
    load_manifest,
    recordings_name,
)
from speechbrain_ext.dataio.splits import split_manifest
from speechbrain_ext.evaluation.results import COLUMNS, read_results, select
from speechbrain_ext.evaluation.systems import (
    closed_form_heads,
    equal_error_thresholds,
    threshold_trials,
)
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.subspaces import FeatureStandardiser
from speechbrain_ext.metrics.retrieval import nearest_value
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.processing.adaptation import Adaptation
from speechbrain_ext.processing.closed_form import channel_lda
from speechbrain_ext.processing.rivals import OF_EACH, RIVALS
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv, write_csv

RECIPE = ROOT / "recipes/InterventionalTTS/post-training"
SMALL = [
    "--train_block={speaker: 3, content: 4}",
    "--subspace_widths={speaker: 12, content: 10}",
    "--number_of_epochs=3",
    "--device=cpu",
    "--noprogressbar",
]
train = functools.partial(
    call_script, RECIPE / "train.py", "hparams/recorded_grid.yaml", *SMALL
)
in_two = functools.partial(
    two_processes, RECIPE / "train.py", "hparams/recorded_grid.yaml", *SMALL[1:]
)


def folders(data, work, out="out"):
    return [
        f"--data_folder={data}",
        f"--output_folder={work / out}",
        f"--cache_folder={work / 'features'}",
    ]


def logged(work, name):
    text = (work / "out/train_log.txt").read_text()
    return [float(x) for x in re.findall(rf"{name}: ([^\s,]+)", text)]


def load(folder, **options):
    return SubspaceEncoder.from_hparams(source=str(folder), **options)


@pytest.fixture(scope="module")
def finished(small_grid, tmp_path_factory):
    """Folder of a run, and what it printed."""
    work = tmp_path_factory.mktemp("run")
    return work, train(*folders(small_grid, work), "--score_files=[kaldi]")


@pytest.fixture(scope="module")
def utterances(small_grid):
    """Split -> its utterances and their labels."""
    dataset = load_manifest(small_grid / "manifest.csv")
    return {
        split: (ids, factor_labels(dataset, ids, ["speaker", "content"]))
        for split, ids in split_manifest(dataset, by="speaker").items()
    }


def measured(rows, label, condition="recorded"):
    """EER and accuracy of the content."""
    where = {"condition": condition}
    eer = pick(rows, label, task="verification", **where)
    right = pick(rows, label, "accuracy", task="content", **where)
    return eer["value"], right["value"]


def test_results(finished):
    work, printed = finished
    about, rows = read_results(work / "out").values()
    for part, speakers, number in (("grid", 4, 46), ("test_grid", 2, 24)):
        factors = {"speaker": speakers, "content": 6}
        assert about[part] == {"factors": factors, "utterances": number}
    dims = {}
    for row in select(rows, measure="dimension"):
        dims.setdefault(row["system"], {})[row["subspace"]] = row["value"]
    # As chosen, or one less than there are values.
    chosen, fewer = dict(speaker=12, content=10), dict(speaker=3, content=5)
    assert dims == {
        "baseline": {"": 560},
        "baseline_standardised": {"": 560},
        "published": chosen,
        "recommended": fewer,
        "grid_lda": fewer,
        "pca": chosen,
        "random_projection": chosen,
    }
    for row in rows:
        if row["system"]:
            baseline = row["system"].startswith("baseline")
            assert row["seed"] == ("" if baseline else 1986)
            assert (row["encoder"], row["layers"]) == ("log_mel", "0")
    # 2 speakers x 6 contents x 2 takes, across contents.
    counts = {row["n"] for row in select(rows, measure=("eer", "min_dcf"))}
    assert counts == {2 * 60 + 12 * 10}
    chance = select(rows, measure="chance", task="content")
    assert [row["value"] for row in chance] == [1 / 6] * 2
    # The buzzes differ in pitch: even a few steps must find that.
    assert measured(rows, "published speaker")[0] < 0.35
    table = read_csv(work / "out/results.csv")
    assert [str(row["value"]) for row in rows] == [r["value"] for r in table]
    assert tuple(table[0]) == COLUMNS
    assert (work / "out/report.txt").read_text() in printed


def test_results_and_heads_by_hand(finished, utterances):
    """From the cached features and the exports, step by step."""
    work, _ = finished
    about, rows = read_results(work / "out").values()
    features = cached_features(work / "features")
    assert set(features) == {None, 7000, 7001, 7002}
    # What the heads were fitted to
    ids, labels = utterances["train"]
    takes = [features[seed].select(ids) for seed in (None, 7001, 7002)]
    models = [load(path) for path in (work / "out").glob("export*")]
    heads = {m.hparams.name: m.mods.embedding_model.network for m in models}
    assert len(heads) == 5
    standardiser = FeatureStandardiser([1, 560]).fit(takes[0])
    for head in heads.values():
        assert torch.allclose(head.standardiser.mean, standardiser.mean)
    dims = {"speaker": 12, "content": 10}
    wanted = closed_form_heads(takes[0], labels, dims, 1986)
    wanted["recommended"] = channel_lda(
        torch.stack(takes), labels, **about["recommended"]
    )
    for name, head in wanted.items():
        for key, value in head.state_dict().items():
            found = heads[name].state_dict()[key]
            assert torch.allclose(found, value, atol=1e-6)
    # What was measured on the test utterances
    ids, labels = utterances["test"]
    speakers, contents = labels["speaker"], labels["content"]
    trials = generate_trials(speakers, contents)
    for condition, seed in (("recorded", None), ("channels", 7000)):
        pooled = features[seed].select(ids)
        vectors = {
            "baseline": pooled.flatten(1),
            "baseline_standardised": standardiser(pooled).flatten(1),
        }
        for name, head in heads.items():
            found = head(pooled).items()
            vectors |= {f"{name} {key}": one for key, one in found}
        for label, one in vectors.items():
            eer, _ = equal_error_rate(trials.score(one), trials.label)
            right = nearest_value(one, contents, speakers).mean()
            found = measured(rows, label, condition)
            assert found == pytest.approx((eer, right))
    # Thresholds of the exports
    ids, labels = utterances["valid"]
    pooled = features[None].select(ids)
    pairs = threshold_trials(labels, ["speaker", "content"])
    for model in models:
        head = heads[model.hparams.name]
        wanted = equal_error_thresholds(head, pooled, pairs)
        assert model.hparams.thresholds == pytest.approx(wanted, abs=1e-5)


def test_files(finished):
    out = finished[0] / "out"
    names = ["", "_grid_lda", "_pca", "_published", "_random_projection"]
    exports = sorted(path.name for path in out.glob("export*"))
    assert exports == [f"export{name}" for name in names]
    for condition in ("recorded", "channels"):
        image = out / f"scores_{condition}.png"
        assert image.read_bytes().startswith(b"\x89PNG")
        scores = list((out / f"scores/trials_{condition}").glob("*.scores"))
        assert len(scores) == 12  # two baselines, and two of five heads
        lines = (scores[0].with_name("trials")).read_text().splitlines()
        assert len(lines) == len(scores[0].read_text().splitlines()) == 240
    # The last checkpoint, and the best where it is another one.
    kept = {path.name.split("+")[0] for path in (out / "save").iterdir()}
    assert kept == {"CKPT", "layers.json", "settings.json"}
    exported = (out / "export/hyperparams.yaml").read_text()
    assert str(finished[0]) not in exported and str(ROOT) not in exported


def test_export(finished, small_grid, utterances, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(finished[0] / "out/export", moved)
    model = load(moved)
    assert model.subspaces == ["speaker", "content"]
    # The vectors of the run
    ids, _ = utterances["test"]
    pooled = cached_features(finished[0] / "features")[None].select(ids[:3])
    wanted = model.mods.embedding_model.network(pooled)["speaker"]
    paths = [str(small_grid / f"wav/{key}.wav") for key in ids[:3]]
    vectors = [model.encode_file(path) for path in paths]
    assert torch.allclose(torch.cat(vectors)[:, 0], wanted, atol=1e-4)
    # Batches
    wavs = torch.randn(3, 8000)
    lens = torch.tensor([1.0, 0.5, 0.8])
    speaker = model.encode_batch(wavs, lens, subspace="speaker")
    assert speaker.shape == (3, 1, 3)
    alone = model.encode_batch(wavs[1, :4000])
    assert torch.allclose(speaker[1], alone[0], rtol=1e-4, atol=1e-5)
    # Verification
    score, decision = model.verify_files(*paths[:2])
    expected = torch.cosine_similarity(vectors[0][0], vectors[1][0])
    assert torch.allclose(score, expected)
    assert decision.dtype == torch.bool
    assert decision == (score > model.hparams.thresholds["speaker"])
    # Other subspaces
    with pytest.raises(InputError, match="has speaker, content"):
        model.encode_batch(wavs, subspace="accent")
    content = load(moved, overrides={"subspace": "content"})
    expected = model.encode_batch(wavs, subspace="content")
    assert expected.shape == (3, 1, 5)
    assert torch.equal(content.encode_batch(wavs), expected)


def test_model_cards(finished):
    """Each export says what it is and what this run measured of it."""
    work, _ = finished
    rows = read_results(work / "out")["rows"]
    for folder, name in (("", "recommended"), ("_published", "published")):
        card = (work / f"out/export{folder}/README.md").read_text()
        assert f"# {name}: subspaces of log_mel" in card
        heard = "with 2 augmented take(s)" in card
        assert heard == (name == "recommended")
        _, *lines = read_table(card)
        values = [r.metric_value for r in ModelCard(card).data.eval_results]
        found = [
            measured(rows, f"{name} {subspace}", condition)[place]
            for place, subspace in enumerate(("speaker", "content"))
            for condition in ("recorded", "channels")
        ]
        assert values == pytest.approx([100 * one for one in found], abs=0.006)
        labels = [" ".join(line[:2]).strip() for line in lines]
        assert labels == ["baseline", f"{name} speaker", f"{name} content"]
        for label, line in zip(labels, lines):
            for condition in ("recorded", "channels"):
                eer, right = measured(rows, label, condition)
                assert {f"{100 * eer:.2f}", f"{100 * right:.1f}"} <= {*line}


def test_second_run_recomputes_nothing(finished, small_grid):
    """Neither features nor epochs; all results are the same bytes."""
    work, out = finished[0], finished[0] / "out"
    kept = [*(work / "features").rglob("*.npy"), *out.glob("save/CKPT*/*")]
    times = {path: path.stat().st_mtime_ns for path in kept}
    names = ["results.json", "results.csv", "report.txt", "train_log.txt"]
    names += ["export_published/network.ckpt", "export/hyperparams.yaml"]
    before = [(out / name).read_bytes() for name in names]
    train(*folders(small_grid, work))
    assert times == {path: path.stat().st_mtime_ns for path in kept}
    assert before == [(out / name).read_bytes() for name in names]


def test_options(small_grid, tmp_path):
    """What each of them changes; and no column for the splits."""
    manifest = tmp_path / "manifest.csv"
    lines = (small_grid / "manifest.csv").read_text().splitlines()
    text = "\n".join(x.rsplit(",", 1)[0] for x in lines)
    manifest.write_text(text.replace("speaker", "talker"))
    train(
        *folders(small_grid, tmp_path),
        f"--manifest={manifest}",
        "--columns={speaker: talker}",
        "--augmented_takes=0",
        "--channel_seed=8000",
        "--recommended={shrinkage: 0.2}",
        "--network={layer_mixture: True, residual_width: 4}",
        "--loss={orthogonality: cka}",
        "--extraction={dtype: float16}",
        "--train_block={speaker: 2, content: 3}",
        "--split={ratios: [0.25, 0.25, 0.5]}",
        "--exported=published",
        "--train_log=!ref <save_folder>/l.txt",
    )
    out = tmp_path / "out"
    about, rows = read_results(out).values()
    features = cached_features(tmp_path / "features")
    assert set(features) == {None, 8000}
    assert features[None].array.dtype == np.float16
    speakers = [about[k]["factors"]["speaker"] for k in ("grid", "test_grid")]
    assert speakers == [2, 4]
    shrinkage = about["recommended"]["shrinkage"]
    assert shrinkage == {"speaker": 0.2, "content": 0.2}
    network = load(out / "export").mods.embedding_model.network
    assert network.subspaces == ["speaker", "content", "residual"]
    assert network.mixture.shape == (3, 1)
    assert pick(rows, "published residual", "dimension")["value"] == 4
    assert "augmented" not in (out / "export_recommended/README.md").read_text()
    assert (out / "save/l.txt").is_file()
    claim = json.loads((out / "save/settings.json").read_text())
    assert claim["loss"]["orthogonality"] == "cka"


def test_one_factor_on_takes(finished, small_grid, utterances):
    """As an experiment wants it: no other head; takes for the network too."""
    work = finished[0]
    train(
        *folders(small_grid, work, "one #1"),
        *("--factors=[speaker]", "--system_name=only", "--exported=only"),
        *("--recommended=null", "--augmented_takes=1", "--network_takes=1"),
    )
    rows = read_results(work / "one #1")["rows"]
    assert not select(rows, system="recommended")
    assert {r["subspace"] for r in select(rows, system="only")} == {"speaker"}
    network = load(work / "one #1/export").mods.embedding_model.network
    ids, _ = utterances["train"]
    features = cached_features(work / "features")
    both = torch.cat([features[seed].select(ids) for seed in (None, 7001)])
    mean = network.standardiser.mean
    assert torch.allclose(mean, both.mean(dim=0), atol=1e-4)


def test_run_options(finished, small_grid, monkeypatch):
    """What is compiled is exported as if it were not."""
    eager = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", eager)
    work, folder = finished[0], finished[0] / "options"
    train(
        *folders(small_grid, work, "options"),
        *("--compile", "--precision=bf16", "--grad_accumulation_factor=2"),
        *("--max_grad_norm=0.5", "--exported=published", "--factors=[speaker]"),
    )
    found = torch.load(folder / "export/network.ckpt")
    before = torch.load(work / "out/export_published/network.ckpt")
    assert list(found) == list(before)
    assert not torch.equal(found["mlp.0.weight"], before["mlp.0.weight"])
    for name in ("export", "export_recommended"):
        model = load(folder / name)
        assert model.subspaces == ["speaker"]
        assert model.encode_batch(torch.randn(1, 8000)).isfinite().all()
    claim = json.loads((folder / "save/settings.json").read_text())
    assert (claim["precision"], claim["max_grad_norm"]) == ("bf16", 0.5)


def test_encoders_layers_and_no_network(small_grid, tmp_path):
    """The heads have the layers that were chosen; nothing is trained."""
    options = "--encoder=mini", "--number_of_epochs=0"
    train(*folders(small_grid, tmp_path), *options)
    about, rows = read_results(tmp_path / "out").values()
    claim = json.loads((tmp_path / "out/save/settings.json").read_text())
    layers = {n for one in about["chosen"].values() for n in one["layers"]}
    assert about["layers"] == sorted(layers) and claim["layers"] == "auto"
    named = "+".join(map(str, sorted(layers)))
    assert {r["layers"] for r in select(rows, system="pca")} == {named}
    assert not select(rows, system="published")
    assert not (tmp_path / "out/export_published").exists()
    assert (tmp_path / "out/export_pca/network.ckpt").is_file()


def refused(capfd, data, work, *options):
    """The one line of an error, after which nothing looks like a result."""
    with pytest.raises(SystemExit) as ended:
        train(*folders(data, work), *options)
    assert ended.value.code == 1
    assert not [*(work / "out").glob("results.*"), *(work / "out").glob("exp*")]
    [line] = [x for x in capfd.readouterr().err.splitlines() if "ERROR" in x]
    return line.removeprefix("ERROR: ")


def write(wav, samples, rate=16000):
    soundfile.write(wav, np.full(samples, np.nan), rate, "FLOAT")


# What is done to the text of the manifest, or to a file of audio.
TEXTS = {
    "no column 'speaker'": lambda text: text.replace("speaker", "talker", 1),
    "occurs twice": lambda text: text + text.splitlines()[1],
    "Factor 'content' of the train grid has 1": lambda text: "\n".join(
        x for x in text.splitlines() if ",c1," in x or "ID" in x
    ),
}
FILES = {
    "'s1_c1_0': no file": lambda wav: wav.unlink(),
    "is not readable audio": lambda wav: wav.write_bytes(b"nonsense"),
    "is empty": lambda wav: write(wav, 0),
    "NaN or infinite": lambda wav: write(wav, 4000),
    "8000 Hz, expected 16000": lambda wav: write(wav, 4000, 8000),
}


@pytest.mark.parametrize("message", [*TEXTS, *FILES])
def test_broken_grid(message, small_grid, tmp_path, capfd):
    data = tmp_path / "grid"
    shutil.copytree(small_grid, data)
    manifest = data / "manifest.csv"
    if message in TEXTS:
        manifest.write_text(TEXTS[message](manifest.read_text()))
    else:
        FILES[message](data / "wav/s1_c1_0.wav")
    assert message in refused(capfd, data, tmp_path, "--resample=False")


@pytest.mark.parametrize("option, message", [
    ("train_block={speaker: 9}", "block of 9 values"),
    ("train_block={speaker: 1, content: 1}", "nothing to compare"),
    ("encoder=nonsense", "nonsense"),
    ("layers=[3]", "layer"),
    ("layers=all", "layers is 'all': expected auto or a list of 1 or more"),
    ("choice=null", "layers is 'auto': expected a list .*, as choice is null"),
    ("choice=5", "choice is 5: expected null or an object, as !new:"),
    ("choice={most_layers: 0}", "most_layers is 0: expected a whole number"),
    ("choice={most_layers: 2.0}", "most_layers is 2.0: expected a whole"),
    ("choice={most_layer: 2}", "most_layer"),
    ("choice={shrinkages: []}", "shrinkages is \\[\\]: expected a list of 1"),
    ("choice={shrinkages: 0.3}", "shrinkages is 0.3: expected a list of 1"),
    ("choice={shrinkages: [2.0]}", "shrinkages is \\[2.0\\]: expected a list"),
    ("choice={dims: {accent: 3}}", "choice.dims is .* some of speaker, cont"),
    ("choice={dims: {speaker: []}}", "choice.dims is .*: expected"),
    ("choice={dims: 60}", "choice.dims is 60: expected"),
    ("choice=!new:builtins.dict", "choice is {.*Choice makes"),
    ("choice=!name:speechbrain_ext.processing.choice.Choice", "Choice makes"),
    (
        "recommended=!name:speechbrain_ext.processing.closed_form.grid_lda",
        "recommended takes no layers",
    ),
    ("recommended={layers: {speaker: [4]}}", "recommended: layers: speaker"),
    ("loss={weights: {speaker: [0.0, 1.0, 2, 9]}}", "number from 1 to 3$"),
    ("factors=[accent]", "expected a list of some of speaker, content"),
    ("content_factor=word", "'word': expected content"),
    ("sede=3", "Unknown option --sede"),
    ("device=cuda:7", "device is cuda:7: "),
    ("device=abc", "device is abc: "),
    ("max_grad_norm=-1", "max_grad_norm is -1.0: expected a number above 0"),
    ("grad_accumulation_factor=9", "but an epoch has 4 blocks: give at most"),
    ("grad_accumulation_factor=0", "grad_accumulation_factor is 0: expected"),
    ("precision=fp16", "precision is fp16: on cpu expected fp32 or bf16"),
    ("channel=null", "channel is None: expected an object, as !new:"),
    ("train_logger=null", "train_logger is None: expected an object"),
    ("channel=5", "channel is 5: expected an object, as !new:"),
    ("checkpointer=3", "checkpointer is 3: expected an object"),
    ("network={layer_mixtre: True}", "layer_mixtre"),
    ("loss={orthogonality: nice}", "expected published or published_batch"),
    ("extraction={dtype: int8}", "expected float32 or float16"),
    ("checkpoint=first", "'first': expected last or best"),
    ("network_takes=3", "augmented_takes is 2: expected"),
    ("network_views=True", "is True: expected False, as unlabelled is null"),
    ("exported=joint", "expected published or recommended"),
    ("system_name=recommended", "that is not one of baseline,"),
    ("lr_scheduler={total_steps: 9}", "total_steps is 9: expected null, as"),
    ("rival_encoder=ecapa", "expected null, as regression_removal is not"),
    ("data_folder=absent", "No manifest absent/manifest.csv"),
])  # fmt: skip
def test_wrong_option(option, message, small_grid, tmp_path, capfd):
    line = refused(capfd, small_grid, tmp_path, f"--{option}")
    assert re.search(message, line)
    assert not (tmp_path / "features").exists()


def test_rival_encoder_of_several_layers(small_grid, tmp_path, capfd):
    """Which of them is a speaker embedding? It is said before any work."""
    options = "--rivals=[regression_removal]", "--rival_encoder=mini"
    line = refused(capfd, small_grid, tmp_path, *options)
    assert "'mini' has 5 layers, of which none is a speaker embedding" in line
    assert not (tmp_path / "features").exists()


def test_a_folder_holds_one_run(finished, small_grid, tmp_path, capfd):
    """Checkpoints of other options are not taken for those of this run."""
    kept = ("results.json", "hyperparams.yaml")
    before = [(finished[0] / "out" / name).read_bytes() for name in kept]
    assert b"\nnumber_of_epochs: 3\n" in before[1]
    for option, name in (
        ("--augmented_takes=1", "augmented_takes"),
        ("--recommended={shrinkage: 0.5}", "recommended"),
        ("--choice={most_layers: 1}", "choice"),
        ("--layers=[0]", "layers"),
        ("--network={layer_mixture: True}", "network"),
        ("--number_of_epochs=4", "number_of_epochs"),
        ("--max_grad_norm=1", "max_grad_norm"),
        ("--grad_accumulation_factor=2", "grad_accumulation_factor"),
        ("--extraction={dtype: float16}", "extraction_dtype"),
        ("--extraction={precision: bf16}", "extraction_precision"),
        ("--seed=1", "seed"),
        ("--split={split_names: {valid: test, test: valid}}", "valid_data"),
    ):
        with pytest.raises(SystemExit):
            train(*folders(small_grid, finished[0]), option)
        assert f"another {name}" in capfd.readouterr().err
    after = [(finished[0] / "out" / name).read_bytes() for name in kept]
    assert after == before
    # A call that fails, or only tries, takes no folder.
    both = folders(small_grid, tmp_path)
    with pytest.raises(SystemExit):
        train(*both, "--train_block={speaker: 9}")
    train(*both, "--debug", "--augmented_takes=0")
    assert not [*(tmp_path / "out").glob("save/CKPT*")]
    about = read_results(tmp_path / "out/debug")["about"]
    assert list(about["smoke_run"]) == ["output_folder"]
    for name in ("report.txt", "export/README.md"):
        assert "SMOKE RUN" in (tmp_path / "out/debug" / name).read_text()
    train(*both, "--augmented_takes=1", "--number_of_epochs=1")
    assert len(logged(tmp_path, "valid loss")) == 1


def test_an_export_that_is_no_result_goes(finished, small_grid, tmp_path):
    """Another choice of the export, in the folder of a finished run."""
    out = shutil.copytree(finished[0] / "out", tmp_path / "out")
    (out / "export_mine").mkdir()  # not ours
    train(*folders(small_grid, tmp_path), "--exported=published")
    names = {path.name.removeprefix("export") for path in out.glob("export*")}
    others = {"_grid_lda", "_pca", "_random_projection", "_mine"}
    assert names == {"", "_recommended"} | others
    assert load(out / "export").hparams.name == "published"


def test_rivals_are_rows_and_exports(finished, small_grid, tmp_path):
    """Of every rival a row; an export too, but of PLDA, a back-end."""
    out = shutil.copytree(finished[0] / "out", tmp_path / "out")
    options = folders(small_grid, tmp_path)
    options += [f"--rivals=[{', '.join(RIVALS)}]", "--rival_encoder=log_mel"]
    train(*options, "--score_files=[voxceleb]")
    rows = read_results(out)["rows"]
    eer = select(rows, measure="eer", task="verification", group="")
    for name in RIVALS:
        found = select(eer, system=name)
        subspaces = {row["subspace"] for row in found}
        each = {"speaker", "content"} if name in OF_EACH else {"content"}
        assert subspaces == ({""} if name == "plda" else each)
        assert {row["condition"] for row in found} == {"recorded", "channels"}
        assert (out / f"export_{name}").is_dir() == (name != "plda")
    for name in ("plda", "leace-content-1986"):
        scores = out / f"scores/trials_recorded/{name}.txt"
        assert len(scores.read_text().splitlines()) == 240
    # Log-likelihood ratios of the four training speakers tell these two
    assert {row["backend"] for row in select(eer, system="plda")} == {"plda"}
    plda = pick(rows, "plda")
    assert plda["value"] < 0.3 and pick(rows, "plda", "cllr")["value"] > 0
    path = out / "scores/trials_recorded/plda.txt"
    scored = [line.split() for line in path.read_text().splitlines()]
    labels, scores = zip(*((int(one[0]), float(one[3])) for one in scored))
    assert equal_error_rate(scores, labels)[0] == plda["value"]
    # Of the run before, which wrote Kaldi's form
    assert not list(path.parent.glob("*.scores"))
    for name in ("leace", "regression_removal"):
        model = load(out / f"export_{name}")
        vector = model.encode_batch(torch.randn(1, 8000))
        assert vector.shape == (1, 1, 560) and vector.isfinite().all()
    # Those that are not asked for again go, and scores of them.
    train(*folders(small_grid, tmp_path))
    assert not list(out.glob("export_leace"))
    assert not list(out.rglob("plda.txt"))


def test_damaged_checkpoints_end_no_run(finished, small_grid, tmp_path):
    out = shutil.copytree(finished[0] / "out", tmp_path / "out")
    newest = max((out / "save").glob("CKPT*"))
    (newest / "CKPT.yaml").write_text("")
    before = (out / "export_published/network.ckpt").read_bytes()
    train(*folders(small_grid, tmp_path))
    assert (out / f"save/damaged+{newest.name}").is_dir()
    assert (out / "export_published/network.ckpt").read_bytes() == before


@pytest.mark.parametrize("option", ["output_folder", "cache_folder"])
def test_a_file_where_a_folder_is_expected(small_grid, tmp_path, option, capfd):
    (tmp_path / "file").touch()
    both = [one for one in folders(small_grid, tmp_path) if option not in one]
    with pytest.raises(SystemExit):
        train(*both, f"--{option}={tmp_path}/file")
    (line,) = capfd.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith(f"ERROR: {option} is '{tmp_path}/file': expected a")


def test_missing_data_folder_is_said(capfd):
    with pytest.raises(SystemExit):
        train("--output_folder=unused")
    assert "needs --data_folder" in capfd.readouterr().err


def test_shards(small_grid, finished, tmp_path):
    """Calls that encode a part each, one of them lost; then one for all."""
    own = folders(small_grid, tmp_path)
    for index in (2, 0):
        printed = train(*own, f"--shard=[{index}, 3]")
        assert f"Shard [{index}, 3] is encoded" in printed
    assert not (tmp_path / "out/results.json").exists()
    train(*folders(small_grid, tmp_path / "alone"), "--shard=[0, 1]")
    assert len([*tmp_path.glob("alone/features/*.partial")]) == 4
    parts = sorted(
        path.name
        for path in tmp_path.glob("features/*-recorded-*.partial/features*")
    )
    assert parts == ["features-0-of-3.npy", "features-2-of-3.npy"]
    train(*own)
    whole, divided = (
        read_results(work / "out")["rows"] for work in (finished[0], tmp_path)
    )
    for one, other in zip(whole, divided, strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-6), one


def test_durations_are_those_of_the_files(small_grid, tmp_path):
    """Not those of the manifest: by these all would be cut into windows."""
    rows = read_csv(small_grid / "manifest.csv")
    rows = [
        row | {"duration": 350, "wav": small_grid / row["wav"]} for row in rows
    ]
    write_csv(tmp_path / "manifest.csv", rows)
    train(*folders(tmp_path, tmp_path), "--shard=[0, 1]")
    recorded = cached_features(tmp_path / "features")[None]
    assert len(recorded.parts[0]) == len(rows)


@pytest.mark.parametrize("shard", ["[2, 2]", "[0]", "3", "[-1, 2]"])
def test_bad_shards(small_grid, tmp_path, shard, capfd):
    with pytest.raises(SystemExit):
        train(*folders(small_grid, tmp_path), f"--shard={shard}")
    assert "expected null or [index, count]" in capfd.readouterr().err


def test_two_processes_with_own_blocks(small_grid, tmp_path):
    """Distributed training, with a single block per process and epoch."""
    own = folders(small_grid, tmp_path)
    in_two(
        *own,
        "--train_block={speaker: 2, content: 6}",
        "--ddp_blocks=own",
        "--distributed_backend=gloo",
    )
    rates = logged(tmp_path, "lr")
    assert len(rates) == 3 and rates[-1] == pytest.approx(4e-9, rel=0.01)
    state = torch.load(tmp_path / "out/export_published/network.ckpt")
    assert not [key for key in state if key.startswith("module.")]
    load(tmp_path / "out/export_published")


@pytest.mark.parametrize("views", [False, True])
def test_two_processes_are_one(views, small_grid, unlabelled, tmp_path):
    """They share each block, of odd sizes too, and each encodes a part."""
    options = ["--train_block={speaker: 3, content: 5}"]
    if views:
        options += [f"--unlabelled={unlabelled}", "--network_views=True"]
        options += [QUICK[2]]
    train(*folders(small_grid, tmp_path / "one"), *options)
    in_two(*folders(small_grid, tmp_path / "two"), *options)
    for part in range(2):
        name = f"features-{part}-of-2.npy"
        found = [*(tmp_path / "two").glob(f"features/*/{name}")]
        assert len(found) == (12 if views else 4)
    one, two = (tmp_path / name / "out" for name in ("one", "two"))
    for name in ("export_published", "export"):
        file = f"{name}/network.ckpt"
        states = torch.load(one / file), torch.load(two / file)
        for key, value in states[0].items():
            assert torch.allclose(value, states[1][key], atol=1e-5), key
    lines = [
        (path / "train_log.txt").read_text().split() for path in (one, two)
    ]
    assert lines[0] == lines[1]
    rows = zip(
        read_results(one)["rows"], read_results(two)["rows"], strict=True
    )
    for row, other in rows:
        assert row["value"] == pytest.approx(other["value"], abs=1e-3), row


def test_arabic_grid_with_moonshine(shared, tmp_path):
    """The documented command, on a part of the grid."""
    data = shared / "data/arabic_speech_commands"
    rows = select(read_csv(data / "manifest.csv"), take="1")
    words = sorted({row["content"] for row in rows})[:8]
    manifest = tmp_path / "manifest.csv"
    write_csv(manifest, select(rows, content=tuple(words)))
    train(
        *folders(data, tmp_path),
        f"--manifest={manifest}",
        "--encoder=hf_encoder",
        f"--encoder_source={shared / 'models/moonshine-tiny-en'}",
        *("--train_block={speaker: 9, content: 8}", "--layers=[0, 1]"),
    )
    about = read_results(tmp_path / "out")["about"]
    assert about["grid"]["factors"] == {"speaker": 18, "content": 8}
    assert about["test_grid"]["utterances"] == 48
    export = tmp_path / "out/export"
    for text in (export / "hyperparams.yaml", tmp_path / "out/results.json"):
        assert f"{shared}/models" not in text.read_text()
    assert (export / "encoder.ckpt").stat().st_size > 1e7  # copied in
    model = load(export)
    assert model.encode_batch(torch.randn(1, 16000)).shape == (1, 1, 17)


@pytest.fixture(scope="module")
def unlabelled(small_grid, tmp_path_factory):
    """Recordings that are the grid's, without labels, in a folder."""
    folder = tmp_path_factory.mktemp("mine") / "meine Stimmen"
    folder.mkdir()
    for speaker, content in itertools.product(range(8), range(0, 6, 2)):
        two = [voiced(speaker, content + i, 3, 0.6) for i in (0, 1)]
        name = f"{speaker} {content}.wav"
        soundfile.write(folder / name, np.concatenate(two), 16000)
    return folder


QUICK = (
    "--number_of_epochs=0",
    "--augmented_takes=1",
    "--adaptation={n_views: 1}",
)


def test_unlabelled(small_grid, unlabelled, tmp_path):
    """The export is the adapted head; beside it is the grid's, as without."""
    # Layers by numbers: others may be chosen without them, which is refused.
    common = [*folders(small_grid, tmp_path), *QUICK, "--layers=[0]"]
    printed = train(*common, f"--unlabelled={unlabelled}")
    assert f"recommended, adapted to {recordings_name(unlabelled)}" in printed
    out = tmp_path / "out"
    model, grid = load(out / "export"), load(out / "export_recommended")
    assert model.hparams.name == "recommended_adapted"
    assert model.hparams.threshold_origin == "recordings"
    assert grid.hparams.name == "recommended"
    assert grid.hparams.threshold_origin == "grid"
    names = [
        [source.name for source in one.hparams.sources] for one in (grid, model)
    ]
    assert names == [["grid"], ["grid", "meine_Stimmen"]]
    assert (
        "## Adapted to meine_Stimmen" in (out / "export/README.md").read_text()
    )
    # As it is by hand, from what the recipe chose
    options = {"progress": False, "cache_folder": tmp_path / "features"}
    again = grid.adapt(unlabelled, **options)
    assert again.hparams.thresholds == model.hparams.thresholds
    wave = torch.tensor(voiced(1, 1))
    assert torch.allclose(
        again.encode_batch(wave), model.encode_batch(wave), atol=1e-4
    )
    # Without them: the export is the grid's, and nothing is left.
    before = (out / "export_recommended/network.ckpt").read_bytes()
    train(*common)
    assert not (out / "export_recommended").exists()
    assert (out / "export/network.ckpt").read_bytes() == before


def test_a_network_of_views(small_grid, unlabelled, tmp_path, capfd):
    """The network alone is another one, in a folder of its own."""
    options = [*QUICK[1:], "--number_of_epochs=2", "--layers=[0]"]
    options += [f"--unlabelled={unlabelled}"]
    views = [*options, "--network_views=True"]
    plain, mixed = tmp_path / "plain", tmp_path / "mixed"
    train(*folders(small_grid, tmp_path, "plain"), *options)
    printed = train(*folders(small_grid, tmp_path, "mixed"), *views)
    assert "to encode: 0.00 hours of audio (there already: rec" in printed
    same = {
        name: all(
            torch.equal(value, after[key]) for key, value in before.items()
        )
        for name in ("", "_recommended", "_published", "_pca")
        for before, after in [
            [torch.load(out / f"export{name}/network.ckpt") for out in both]
            for both in [(plain, mixed)]
        ]
    }
    assert same.pop("_published") is False and all(same.values())
    assert read_results(mixed)["about"]["network_views"] is True
    for wrong, what in (
        (options, "network_views"),
        ([*views, "--adaptation={n_views: 1, seed: 1}"], "adaptation"),
    ):
        with pytest.raises(SystemExit):
            train(*folders(small_grid, tmp_path, "mixed"), *wrong)
        assert f"another {what}" in capfd.readouterr().err


def test_views_that_tell_nothing_of_a_factor(unlabelled):
    """A recording would be taken for a value of its own."""
    script = load_script(RECIPE / "train.py")
    options = {
        "unlabelled": str(unlabelled),
        "exported": "recommended",
        "recommended": channel_lda,
        "adaptation": Adaptation({"channel": RandomChannel}),
        "encoder_model": load_encoder("log_mel"),
        "resample": True,
        "factors": ["speaker"],
        "network_views": True,
    }
    assert list(script.find_unlabelled(options, debug=False))
    options["factors"] = ["speaker", "content"]
    with pytest.raises(InputError, match="no intervention tells of content"):
        script.find_unlabelled(options, debug=False)
    options["network_views"] = False
    assert list(script.find_unlabelled(options, debug=False))


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--exported=published", "--number_of_epochs=1"],
            "expected null, as only the head recommended is adapted",
        ),
        (["--adaptation=null"], "expected null, as adaptation is null"),
        (["--unlabelled=absent"], "No manifest .*absent"),
        (["--unlabelled=few"], "3 recordings are too few"),
        (["--unlabelled=empty"], "No recordings in .*empty"),
        (["--adaptation={n_anchors: 3}"], "n_anchors is 3: .* of 22 or more"),
        (["--recommended={shrinkage: auto}"], "shrinkage is 'auto': expected"),
    ],
)
def test_what_cannot_be_adapted(
    options, message, small_grid, unlabelled, tmp_path, capfd
):
    """It is said before anything is encoded."""
    for folder, count in (("few", 3), ("empty", 0)):
        (tmp_path / folder).mkdir()
        for path in sorted(unlabelled.iterdir())[:count]:
            shutil.copy(path, tmp_path / folder)
    options = [
        x.replace("unlabelled=", f"unlabelled={tmp_path}/") for x in options
    ]
    options = [f"--unlabelled={unlabelled}", *QUICK[:2], *options]
    line = refused(capfd, small_grid, tmp_path, *options)
    assert re.search(message, line)
    assert not (tmp_path / "features").exists()
