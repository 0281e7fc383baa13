import os
import pathlib
import pickle
import subprocess
import sys

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/VoxCeleb/SpeakerRec"
YAMLS = {
    "cosine": RECIPE / "hparams/verification_subspace.yaml",
    "plda": RECIPE / "hparams/verification_plda_subspace.yaml",
}


def load(name, folder, **overrides):
    overrides.update(data_folder="unused", pretrain_path=str(folder))
    with open(YAMLS[name], encoding="utf-8") as file:
        return load_hyperpyyaml(file, overrides)


@pytest.mark.parametrize("name", ["cosine", "plda"])
def test_unchanged_scripts(name, tmp_path, device):
    from speechbrain.dataio import audio_io
    from speechbrain.dataio.dataio import load_data_csv

    # There are few utterances to train PLDA on.
    sizes = {"emb_dim": 2, "rank_f": 2} if name == "plda" else {}
    # Of another seed, so that weights that are not loaded are others.
    model = load(name, tmp_path, seed=1, **sizes)["embedding_model"]
    model.save(tmp_path / "embedding_model.ckpt")
    annotation = "tests/samples/annotation/ASR_train_plda.csv"
    options = {
        "data_folder": "tests/samples/ASR",
        "verification_file": "tests/samples/annotation/verification.txt",
        "train_data": annotation,
        "enrol_data": annotation,
        "test_data": annotation,
        "skip_prep": True,
        "pretrain_path": tmp_path,
        "output_folder": tmp_path / "output",
        "device": device,
        **sizes,
    }
    subprocess.run(
        [sys.executable, RECIPE / f"speaker_verification_{name}.py"]
        + [YAMLS[name], *(f"--{key}={one}" for key, one in options.items())],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )

    rows = load_data_csv(ROOT / annotation)
    assert len({row["stop"] for row in rows.values()}) > 1

    def embed(key):
        """The vector of a recording that is in no batch, without padding"""
        wav, _ = audio_io.load(str(ROOT / rows[key]["wav"]))
        return model(wav[:, : int(rows[key]["stop"])])[0, 0]

    if name == "cosine":
        lines = (tmp_path / "output/scores.txt").read_text().splitlines()
        assert len(lines) == 4
        for line in lines:
            enrol, test, _, score = line.split()
            cosine = torch.cosine_similarity(embed(enrol), embed(test), dim=0)
            assert float(score) == pytest.approx(cosine.item(), abs=1e-3)
    else:
        stat = pickle.loads(
            (tmp_path / "output/save/stat_test.pkl").read_bytes()
        )
        assert set(stat.segset) == set(rows)
        for key, vector in zip(stat.segset, torch.from_numpy(stat.stat1)):
            assert vector.float().allclose(embed(key), atol=1e-3)


@pytest.mark.parametrize("name", ["cosine", "plda"])
def test_other_weights_are_refused(name, tmp_path):
    path = tmp_path / "embedding_model.ckpt"
    load(name, tmp_path)["embedding_model"].save(path)
    saved = torch.load(path)
    del saved["weights"]["standardiser.mean"]
    torch.save(saved, path)
    pretrainer = load(name, tmp_path)["pretrainer"]
    pretrainer.collect_files()
    with pytest.raises(ValueError, match="standardiser.mean"):
        pretrainer.load_collected()
