import os
import pathlib
import re
import subprocess
import sys

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/Google-speech-commands"
YAML = RECIPE / "hparams/subspace.yaml"


def load(**overrides):
    overrides.setdefault("data_folder", "unused")
    with open(YAML, encoding="utf-8") as file:
        return load_hyperpyyaml(file, overrides)


def save_weights(path):
    """Of another seed, so that weights that are not loaded are others"""
    hparams = load(seed=1, pretrain_path="none", load_network=None)
    hparams["mean_var_norm"].save(path)
    return hparams["network"].state_dict()


def test_unchanged_script(tmp_path, device):
    from speechbrain.dataio import audio_io

    weights = save_weights(tmp_path / "embedding_model.ckpt")

    lines = ["ID,duration,start,stop,wav,command"]
    clips, generator = [], torch.Generator().manual_seed(0)
    for i, command in enumerate(["yes", "no"] * 3):
        # Clips of the corpus may be shorter than 16000 samples.
        wav = torch.randn(1, 16000 - 2000 * i, generator=generator) / 10
        path = str(tmp_path / f"{i}.wav")
        audio_io.save(path, wav, 16000)
        lines.append(f"{i},1.0,0,16000,{path},{command}")
        clips.append(audio_io.load(path)[0])
    annotation = tmp_path / "all.csv"
    annotation.write_text("\n".join(lines) + "\n")
    options = {
        "data_folder": str(tmp_path),
        "train_annotation": str(annotation),
        "valid_annotation": str(annotation),
        "test_annotation": str(annotation),
        "skip_prep": True,
        "pretrain_path": str(tmp_path),
        "output_folder": str(tmp_path / "output"),
        "number_of_epochs": 1,
    }
    subprocess.run(
        [sys.executable, "train.py", YAML, f"--device={device}"]
        + [f"--{key}={value}" for key, value in options.items()]
        + ["--dataloader_options={num_workers: 0}"]
        + ["--train_logger={precision: 6}"],
        cwd=RECIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )

    # The loss of the padded batch is that of clips without any padding.
    hparams = load(**options)
    hparams["checkpointer"].recover_if_possible()
    modules = torch.nn.ModuleDict(hparams["modules"]).eval()
    vectors = torch.cat([modules.mean_var_norm(clip) for clip in clips])
    outputs = modules.softmax(modules.classifier(vectors))
    labels = torch.tensor([[0], [1]] * 3)
    loss = hparams["compute_cost"](outputs, labels, torch.ones(len(clips)))
    log = (tmp_path / "output/train_log.txt").read_text()
    logged = float(re.search(r"test loss: ([\d.]+)", log)[1])
    assert logged == pytest.approx(loss.item(), abs=1e-3)

    # Only the classifier was trained.
    trained = {
        name for name, p in modules.named_parameters() if p.requires_grad
    }
    assert trained == {"classifier.linear.w.weight", "classifier.linear.w.bias"}
    network = modules.mean_var_norm.network.state_dict()
    assert all(network[name].equal(weights[name]) for name in weights)


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "embedding_model.ckpt"
    save_weights(path)
    saved = torch.load(path)
    del saved["weights"]["standardiser.mean"]
    torch.save(saved, path)
    with pytest.raises(ValueError, match="standardiser.mean"):
        load(pretrain_path=str(tmp_path))
