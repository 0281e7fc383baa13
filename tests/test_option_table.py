"""Every option of the scripts is refused in one line, or can be used."""

import json
import re

import pytest
from conftest import ROOT, load_script
from ruamel.yaml import YAML

from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import (
    load_hparams,
    parse_arguments,
    plain_hparams,
)
from speechbrain_ext.utils.options import check_options, check_run_options

RECIPES = ROOT / "recipes"
POST = "InterventionalTTS/post-training/"
table = load_script(RECIPES / POST / "option_table.py")
synthesis = load_script(RECIPES / "LibriTTS/post-training/synthesise.py")
mini = load_script(RECIPES / "MiniEncoder/pretraining/train.py")
FILES = {
    f"{POST}hparams/interventional.yaml": table.TRAIN,
    f"{POST}hparams/recorded_grid.yaml": table.TRAIN,
    f"{POST}hparams/three_factors.yaml": table.TRAIN,
    "LibriTTS/post-training/hparams/joint.yaml": table.TRAIN,
    "CREMA-D/post-training/hparams/three_factors.yaml": table.TRAIN,
    f"{POST}hparams/evaluate.yaml": table.EVALUATE,
    f"{POST}hparams/experiments.yaml": table.EXPERIMENTS,
    "LibriTTS/post-training/hparams/experiments.yaml": table.EXPERIMENTS,
    "MiniEncoder/pretraining/hparams/train.yaml": mini.RULES,
    "LibriTTS/post-training/hparams/synthesis.yaml": synthesis.RULES,
}
# Wrong for most options: types, signs, sizes, and what YAML makes of typos.
VALUES = [
    *(-3, -0.1, 0, 1.5, 2**40, 10**30, float("nan"), float("inf"), True),
    *("", " ", "abc", "1e-4", None, [], [[]], [-1], ["abc", "abc"]),
    *({}, {"speakr": 2}, {"speaker": -2}, {"speaker": "x"}, {"speaker": [9]}),
]


def replaced(options, name, value):
    """The options with another value of one, which may be in a mapping."""
    top, _, rest = name.partition(".")
    if rest:
        value = type(options[top])(options[top], **{rest: value})
    return options | {top: value}


def given(path):
    """What a file needs to be read."""
    keys = re.findall(r"^(\w+): !PLACEHOLDER", path.read_text(), re.MULTILINE)
    return "".join(f"{key}: x\n" for key in keys)


@pytest.mark.parametrize("file", FILES)
def test_options_are_refused_in_one_line_or_fit(file):
    path, rules = RECIPES / file, FILES[file]
    plain = plain_hparams(path, given(path), rules)
    tried = 0
    for name in rules:
        top, _, rest = name.partition(".")
        if not plain.get(top) and (rest or top not in plain):
            continue
        refused = 0
        for value in VALUES:
            try:
                check_options(replaced(plain, name, value), rules)
            except InputError as error:
                refused += 1
                assert re.fullmatch(".* (expected|has no) .*", str(error))
        assert refused >= 10, name
        tried += 1
    assert tried > 6


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: b"", "has no option at all: take the recipe's own"),
        (lambda text: b"\xff" + text, "is not UTF-8 .*: save it as UTF-8"),
        (
            lambda text: text.replace(b"\nfactors:", b"\n# "),
            "has no option factors: take",
        ),
        (
            lambda text: text.replace(b"<save_folder>", b"<sav_folder>"),
            'The reference "sav_folder" is not valid',
        ),
        (
            lambda text: text.replace(b"\nseed: 1986", b"\nseed: !ref <seed>"),
            "a !ref leads to itself",
        ),
        (
            lambda text: text.replace(b"<save_folder>", b"<seed[0]>"),
            "argument of type 'int' is not",
        ),
        (
            lambda text: text.replace(b"torch.optim.AdamW", b"torch.optim.Adm"),
            "There is no such entity as torch.optim.Adm",
        ),
        (
            lambda text: text.replace(b".InterventionalLoss", b".Loss"),
            "There is no such class as .*Loss",
        ),
        (
            lambda text: text.replace(b"!new:speech", b"!new:torch.randn #"),
            "!new:torch.randn should be a class",
        ),
        (
            lambda text: text.replace(b"!apply:speech", b"!apply:no.such #"),
            "There is no such callable as no.such",
        ),
    ],
)
def test_option_files_that_are_damaged(change, message, tmp_path):
    path = tmp_path / "hparams" / "train.yaml"
    path.parent.mkdir()
    text = (RECIPES / f"{POST}hparams/recorded_grid.yaml").read_bytes()
    path.write_bytes(change(text))
    with pytest.raises(InputError, match=f"^{path}.*{message}"):
        load_hparams(path, "data_folder: x", table.TRAIN)


@pytest.mark.parametrize(
    "words, overrides",
    [
        (["--output_folder=/a #b"], {"output_folder": "/a #b"}),
        (["--output_folder", "#b"], {"output_folder": "#b"}),
        (["--train_log=!ref <a>/x #1"], {"train_log": "<a>/x #1"}),
        (["--manifest=a=b", "--seed=1"], {"manifest": "a=b", "seed": 1}),
        (["--layers=[0, 6] # two"], {"layers": [0, 6]}),
        (["--columns={a: 'x #y'}"], {"columns": {"a": "x #y"}}),
        (["--recommended="], {"recommended": None}),
        (["--debug", "--seed", "-1", "--device=cpu"], {"seed": -1}),
        (["--seed=1", "foo"], None),
        (["--seed", "1", "foo"], None),
        (["--seed=1", "--debug", "foo"], None),
        (["foo", "--seed=1"], None),
    ],
)  # fmt: skip
def test_values_of_the_command_line(words, overrides):
    if overrides is None:
        with pytest.raises(InputError, match="'foo' belongs to no option"):
            parse_arguments(["a.yaml", *words])
        return
    path, _, found = parse_arguments(["a.yaml", *words])
    assert path == "a.yaml"
    found = YAML().load(found).items()
    # A text with a tag is wrapped.
    assert {k: getattr(v, "value", v) for k, v in found} == overrides


def test_a_limit_of_steps_is_a_number():
    """SpeechBrain's own parser leaves it a text."""
    for word, limit in (("5", 5), ("0", 0), ("-1", "-1"), ("x", "x")):
        words = ["a.yaml", f"--optimizer_step_limit={word}"]
        _, run_opts, _ = parse_arguments(words)
        assert run_opts.optimizer_step_limit == limit
        if word == "5":
            check_run_options(run_opts)
            continue
        with pytest.raises(InputError, match="optimizer_step_limit is .* null"):
            check_run_options(run_opts)


def test_releases_of_the_authors_code():
    path = RECIPES / "LibriTTS/post-training/hparams/joint.yaml"
    with pytest.raises(InputError, match="'may': expected paper or july or ju"):
        plain_hparams(path, "release: may", table.TRAIN)


def test_what_the_table_lets_through_makes_objects():
    path = RECIPES / f"{POST}hparams/recorded_grid.yaml"
    plain = plain_hparams(path, given(path))
    loaded = 0
    for name in table.TRAIN:
        top, _, rest = name.partition(".")
        if top not in ("network", "loss", "subspace_widths", "max_lr"):
            continue
        for value in VALUES:
            try:
                check_options(replaced(plain, name, value), table.TRAIN)
            except InputError:
                continue
            value = {rest: value} if rest else value
            text = f"{given(path)}{top}: {json.dumps(value)}"
            load_hparams(path, text, table.TRAIN)
            loaded += 1
    assert loaded > 5


@pytest.mark.parametrize(
    "options, message",
    [
        ("recommended: {dims: {speakr: 2}}", "recommended.dims .*'speakr'"),
        ("recommended: {layers: {speakr: [0]}}", "recommended.layers .*speakr"),
        (
            "recommended: {shrinkag: 0.3}",
            "takes no shrinkag: did you mean shri",
        ),
        ("subspace_widths: {tempo: 3}", "subspace_widths .*'tempo'"),
        ("subspace_widths: {speaker: 1000000000}", "from 1 to 65536"),
        ("network: {hidden: [1000000000]}", "network.hidden .* to 65536"),
        ("grid_factors: [speaker, ID]", "grid_factors .* not one of ID, wav"),
        ("factors: [speaker, speaker]", "factors is .*list of some of speaker"),
        ("factors: speaker", "factors is 'speaker': expected a list"),
        ("content_factor: speaker", "content_factor is 'speaker': .* content"),
        ("split: {bye: speaker}", "split has no bye: did you mean by"),
        ("split: {by: actor}", "split.by is 'actor': expected speaker or cont"),
        ("train_block: {speaker: 65}", "train_block .*at most.*'speaker': 64"),
        ("n_test_voices: 1", "n_test_voices is 1: expected .* 2 or more"),
        ("n_test_sentences: 1", "n_test_sentences is 1"),
        ("checkpoint: newest", "checkpoint is 'newest': expected last or best"),
        ("exported: grid_lda", "expected published or recommended"),
        ("system_name: pca", "system_name is 'pca'"),
        (
            "augmented_takes: 1\nnetwork_takes: 2",
            "augmented_takes is 1: .* 2 or",
        ),
        ("max_lr: 1e-4", "max_lr is '1e-4': .*written as .*1.0e-5"),
        ("max_grad_norm: -1", "max_grad_norm is -1: expected a number above 0"),
        ("patience: 0", "patience is 0: expected a whole number of 1 or more"),
        ("optimizer_step_limit: 0", "optimizer_step_limit is 0: .*null or a"),
        ("lr_interval: batch", "expected step or epoch"),
        ("block_order: fixed", "expected shuffled or grouped"),
        (
            "block_order: grouped\nunlabelled: x\nnetwork_views: True",
            "block_order is 'grouped': expected shuffled",
        ),
        ("network: {projection: 0}", "network.projection is 0: .* from 1 to"),
        ("loss: {weights: {tempo: 1.0}}", "loss.weights .*'tempo'.* ramp"),
        ("loss: {weights: {content: -1}}", "loss.weights .*'content': -1"),
        ("loss: {weights: {speaker: [0, 1, 5, 5]}}", "first epoch, last epoch"),
        ("loss: {weights: {speaker: [0, 1, 5]}}", "first epoch, last epoch"),
        ("loss: {orthogonality_weight: 2.0}", "Invalid .* 'orthogonality_weig"),
        ("seed: -3", "seed is -3"),
        (
            "extraction: {dtyp: float16}",
            "extraction has no dtyp: did you mean d",
        ),
        ("sead: 1", "Unknown option --sead: did you mean --seed"),
    ],
)
def test_what_is_known_at_the_start(options, message):
    path = RECIPES / f"{POST}hparams/interventional.yaml"
    with pytest.raises(InputError, match=message):
        load_hparams(path, options, table.TRAIN)
