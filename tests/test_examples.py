"""The examples beside the main recipe run, and what they print is so."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT, pick

from speechbrain_ext.evaluation.results import read_results

EXAMPLES = ROOT / "recipes/InterventionalTTS/examples"
ALL = sorted(path.name for path in EXAMPLES.glob("*.py"))
# That one takes files, and is run by test_onnx_export.py.
SCRIPTS = [name for name in ALL if name != "onnx_without_torch.py"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All scripts as a new user calls them: name -> folder, what was printed.

    Two at a time; what takes long is mostly to import torch.
    """
    pytest.importorskip("espeakng_loader")

    def run(name):
        folder = tmp_path_factory.mktemp(name.removesuffix(".py"))
        done = subprocess.run(
            [sys.executable, EXAMPLES / name],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return folder, done.stdout

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SCRIPTS, pool.map(run, SCRIPTS)))


def own_encoder(folder, printed):
    """Files agree in the subspace of what they share, and in no other."""
    line = r"of one (\w+), in the (\w+) subspace: \S+, the same: (\w+)"
    found = re.findall(line, printed)
    assert len(found) == 4
    for shared, subspace, same in found:
        assert same == str(shared == subspace)
    assert (folder / "results/own_encoder/export/encoder.ckpt").is_file()


def own_grid(folder, printed):
    """Speakers that are new to the head are told apart in their subspace."""
    about, rows = read_results(folder / "results/own_grid").values()
    assert about["grid"]["factors"] == {"speaker": 12, "content": 10}
    eer = {
        subspace: pick(rows, f"recommended {subspace}")["value"]
        for subspace in ("speaker", "content")
    }
    assert eer["speaker"] < 0.25 < eer["content"]
    assert re.search(r"content of \S+: 9 numbers", printed)


def own_factor(_, printed):
    """Each factor is told in its subspace, and nearly not in the others."""
    rows = [line.split() for line in printed.splitlines()[-3:]]
    assert [name for name, *_ in rows] == ["speaker", "content", "rate"]
    for row, (_, *rates) in enumerate(rows):
        own = float(rates.pop(row))
        assert own < 25 and min(map(float, rates)) > 40


def own_synthesiser(_, printed):
    """Sizes of one voice count as speakers: were they alike, 18 % of the
    pairs of other speakers would be.
    """
    clips, eer = re.search(r"(\d+) clips, .*: EER (\S+) %", printed).groups()
    assert int(clips) == 48 and float(eer) < 10


def plug_into_sv_recipe(_, printed):
    """The class and the option file of SpeechBrain find the same vectors."""
    assert "the same speaker: True" in printed
    assert float(re.search(r"for the script: (\S+)", printed)[1]) < 1e-6
    trials, eer = re.search(r"(\d+) trials: EER (\S+) %", printed).groups()
    assert int(trials) == 48 * 47 / 2 and float(eer) < 10


CHECKS = [
    own_encoder,
    own_factor,
    own_grid,
    own_synthesiser,
    plug_into_sv_recipe,
]


@pytest.mark.parametrize("check", CHECKS)
def test_example(finished, check):
    check(*finished[f"{check.__name__}.py"])


def test_every_script_is_checked_and_told():
    assert SCRIPTS == [f"{check.__name__}.py" for check in CHECKS]
    told = re.findall(r"\((\w+\.py)\)", (EXAMPLES / "README.md").read_text())
    assert set(ALL) <= set(told)
