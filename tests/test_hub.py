"""Sharing an export: against a stand-in of the hub's HTTP API."""

import json
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from helpers import build_export, contents
from hub_stand_in import TOKEN, stand_in
from huggingface_hub import ModelCard

from speechbrain_ext.evaluation.results import Subspace, make_row
from speechbrain_ext.inference.hub import push_to_hub
from speechbrain_ext.inference.model_card import (
    adapted_card,
    model_card,
    read_card,
)
from speechbrain_ext.inference.subspaces import load_export
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.models import FOLDER
from speechbrain_ext.utils.errors import InputError

GRID = {"factors": {"speaker": 3, "content": 8}, "utterances": 24}
ABOUT = {"encoder": "wavlm", "layers": [0], "seed": 1}
ABOUT |= {"grid": GRID, "test_grid": GRID}
CARD = "---\ntags:\n- speech\n---\n\n# A head\n"
# The library reads its variables when it is imported, so what talks to the
# stand-in is a process of its own: what each step gives, or its error.
STEPS = """
import json, os, sys
import huggingface_hub, torch
from speechbrain.utils.fetching import FetchConfig
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.hub import push_to_hub
from speechbrain_ext.inference.subspaces import load_export
from speechbrain_ext.utils.errors import InputError

wav, one, two = torch.linspace(-1, 1, 8000), *sys.argv[1:3]
said = {}

def embed(model):
    return model.encode_batch(wav).flatten().tolist()

def note(name, step, *arguments, **options):
    try:
        said[name] = step(*arguments, **options)
    except InputError as error:
        said[name] = str(error)
    return said[name]

"""


@pytest.fixture
def exports(tmp_path):
    """Two exports, the second with a licence but no packed encoder."""
    packed = load_encoder("log_mel", overrides={"encoder": {"floor": 1e-5}})
    folders = []
    for i, encoder in enumerate((packed, load_encoder("log_mel"))):
        folders.append(build_export(tmp_path / f"{i}", encoder, seed=i))
        (folders[-1] / "README.md").write_text(CARD)
    (folders[1] / "README.md").write_text(f"---\nlicense: wtfpl\n{CARD[4:]}")
    (folders[0] / "notes.txt").write_text("mine")
    return folders


def run_steps(exports, tmp_path, steps, address, **variables):
    """What a process says of some steps."""
    code = STEPS + textwrap.dedent(steps) + "\nprint(json.dumps(said))"
    variables = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, exports)],
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_push_and_load(exports, tmp_path):
    """Two commits; each is loaded by its id, the last one by the name."""
    before = contents(exports[0])
    steps = """
    first = note("first", push_to_hub, one, "me/it", licence="cc-by-4.0")
    huggingface_hub.HfApi().upload_file(
        path_or_fileobj=b"mine", path_in_repo="old/a.ckpt", repo_id="me/it"
    )
    second = note("second", push_to_hub, two, "me/it", licence="mit")
    for name in ("me/it", first, second, "me/it@main"):
        note(f"load {name}", lambda: embed(load_export(name, "cpu")))
    commit = FetchConfig(revision=first.partition("@")[2])
    load = lambda: SubspaceEncoder.from_hparams("me/it", fetch_config=commit)
    model = load()
    note("class", lambda: embed(model))
    note("parameter", lambda: embed(
        load_export("me/it", "cpu", revision=commit.revision)))
    note("branch", model.push_to_hub, "me/it", revision="small")
    note("load branch", lambda: embed(load_export("me/it@small", "cpu")))
    note("unlike", load_export, "me/it@main", revision="small")
    """
    with stand_in() as (address, hub):
        said = run_steps(exports, tmp_path, steps, address)
    first, second = said["first"], said["second"]
    assert first.startswith("me/it@") and second.startswith("me/it@")
    local = [load_export(path, "cpu") for path in exports]
    wav = torch.linspace(-1, 1, 8000)
    own = [model.encode_batch(wav).flatten().tolist() for model in local]
    assert own[0] != own[1]
    loaded = [said[f"load {x}"] for x in (first, second, "me/it", "me/it@main")]
    assert loaded == [own[0], own[1], own[1], own[1]]
    assert own[0] == said["class"] == said["parameter"] == said["load branch"]
    assert "expected one revision, as in user/name@main" in said["unlike"]
    # One commit each, which takes away what the second export has no more,
    # but nothing in folders.
    files = [hub.repos["me/it"][x.partition("@")[2]] for x in (first, second)]
    names = {".gitattributes", "README.md", "hyperparams.yaml", "network.ckpt"}
    assert {*files[0]} == names | {"encoder.ckpt"}
    assert files[1].pop("old/a.ckpt") == b"mine" and {*files[1]} == names
    assert len(hub.commits) == 4
    for path, sent, licence in zip(exports, files, ("cc-by-4.0", "mit")):
        card = ModelCard(sent["README.md"].decode())
        assert card.data.license == licence
        assert card.data.tags == ["speech"] and "# A head" in card.text
        for name in {*sent} - {"README.md", ".gitattributes"}:
            assert sent[name] == (path / name).read_bytes()
    # Nothing was written into the folder.
    assert contents(exports[0]) == before


def test_what_the_hub_refuses(exports, tmp_path):
    """One line each; an upload that breaks off changes nothing."""
    steps = """
    os.environ["HF_TOKEN"] = "hf_wrong"
    note("wrong token", push_to_hub, one, "me/it", licence="mit")
    note("private", load_export, "me/it")
    os.environ["HF_TOKEN"] = "hf_right"
    note("stranger", push_to_hub, one, "stranger/it", licence="mit")
    note("broken", push_to_hub, one, "me/broken", licence="mit")
    note("licence", push_to_hub, one, "me/it", licence="nonsense")
    note("missing", load_export, "me/absent")
    note("class", SubspaceEncoder.from_hparams, "me/absent")
    note("revision", load_export, "me/it@v9")
    note("none", load_export, "me/it")
    huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"
    note("no server", push_to_hub, one, "me/it", licence="mit")
    note("no connection", load_export, "me/never")
    """
    with stand_in() as (address, hub):
        said = run_steps(exports, tmp_path, steps, address)
    push = f"Cannot push to 'me/it' on {address} "
    for name, *parts in (
        ("wrong token", push, "401", "check that the token may write"),
        ("private", "No export in 'me/it' (Model 'me/it' is not a folder here"),
        ("stranger", "Cannot push to 'stranger/it'", "You may not write there"),
        ("broken", "Cannot push to 'me/broken'", "nothing is there in part"),
        ("licence", push, "license is not one of the hub"),
        ("missing", "RepositoryNotFoundError", "404", "or its hub id"),
        ("class", "404", "give a local one with source=FOLDER"),
        ("revision", "'me/it' at revision 'v9'", "RevisionNotFoundError"),
        ("none", "hub model 'me/it'", "without hyperparams.yaml"),
        ("no server", "'me/it' on http://127.0.0.1:9 (Connect"),
        ("no connection", "cannot be downloaded (LocalEntryNotFoundError"),
    ):
        assert all(part in said[name] for part in parts), said[name]
        assert "\n" not in said[name]
    assert [*hub.repos["me/broken"].values()] == [
        {".gitattributes": b"*.ckpt filter=lfs"}
    ]
    assert not hub.commits


def test_what_is_not_sent(exports, tmp_path, monkeypatch):
    """Before anything is."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def refused(message, folder=exports[0], repo_id="me/it", **options):
        with pytest.raises(InputError, match=message) as raised:
            push_to_hub(folder, repo_id, **options)
        assert "\n" not in str(raised.value)

    for name in ("it", "me/it/too", "me/i t", "me/it@main", "", None):
        refused("is not an id of the Hugging Face hub: exp", repo_id=name)
    refused("The card of .* names no licence: give the head one")
    refused("No folder me/it: expected that of", folder="me/it")
    refused("No export in", folder=tmp_path)
    (exports[0] / "README.md").write_text("---\na: {\n---\n")
    refused("front matter of README.md cannot be read", licence="mit")
    (exports[0] / "README.md").unlink()
    refused("has no card README.md: write what", licence="mit")
    (exports[1] / "network.ckpt").write_bytes(b"broken")
    refused("network.ckpt", folder=exports[1], licence="mit")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    refused("call hf auth login once, or set the variable HF_TOKEN")


def results():
    """Rows of a run, of which a card takes those of the own factor."""
    rows = []
    for condition, value in (("recorded", 0.0712), ("channels", 0.1)):
        for subspace in ("speaker", "content"):
            common = {"condition": condition, "data": "my_grid", "group": ""}
            origin = Subspace("recommended", subspace)
            for task, target, measure in (
                ("verification", "speaker", "eer"),
                ("content", "content", "accuracy"),
            ):
                asked = {"task": task, "target": target, "measure": measure}
                rows.append(make_row(origin, value=value, **asked, **common))
    return rows


def test_metadata():
    """The library that the hub reads cards with finds the run's results."""
    identity = {"model": {"source": "microsoft/wavlm", "commit": "1" * 40}}
    about = ABOUT | {"encoder_identity": identity}
    names = ["speaker", "content"]
    card = ModelCard(model_card(results(), about, "recommended", names))
    data = card.data.to_dict()
    assert data.pop("model-index")[0]["name"] == "recommended on wavlm"
    assert data == {
        "base_model": "microsoft/wavlm",
        "datasets": ["my_grid"],
        "library_name": "speechbrain",
        "metrics": ["eer", "accuracy"],
        "pipeline_tag": "feature-extraction",
        "tags": ["speech-embeddings", "speaker", "content"],
    }
    found = [
        (r.task_type, r.dataset_type, r.dataset_config, r.metric_value)
        for r in card.data.eval_results
    ]
    assert found == [
        ("speaker-verification", "my_grid", "recorded", 7.12),
        ("speaker-verification", "my_grid", "channels", 10.0),
        ("content-retrieval", "my_grid", "recorded", 7.12),
        ("content-retrieval", "my_grid", "channels", 10.0),
    ]
    # An encoder of this machine has no id.
    identity["model"] = {"digest": "abc"}
    card = ModelCard(model_card(results(), about, "recommended", names))
    assert card.data.base_model is None


def test_an_adapted_head_claims_no_results_of_another(caplog):
    """The front matter stays valid; what is not of results stays too."""
    names = ["speaker", "content"]
    before = model_card(results(), ABOUT, "recommended", names)
    source = SimpleNamespace(name="mine", count=30)
    choice = {"weight": 1.0, "shrinkage": 0.1, "eer": 0.2}
    adapted = SimpleNamespace(
        choices={"speaker": choice}, thresholds={"speaker": {0.01: 0.5}}
    )
    for text, tags in ((before, ["speech-embeddings", *names]), ("", None)):
        card = adapted_card(read_card(text), source, 0.5, adapted, 0.01)
        card = ModelCard(card + "\n## Calibration\n")
        assert card.data.tags == tags
        assert "model-index" not in card.data.to_dict()
        assert "metrics" not in card.data.to_dict()
        sections = ["## Adapted to mine", "## Calibration"]
        assert [x for x in sections if x in card.text] == sections
    assert not caplog.records


def test_the_packaged_card_is_what_the_hub_takes():
    data = ModelCard.load(FOLDER / "mini_subspaces/README.md").data
    assert data.license == "apache-2.0" and data.library_name == "speechbrain"
    assert {r.task_type for r in data.eval_results} == {
        "speaker-verification",
        "content-retrieval",
    }
