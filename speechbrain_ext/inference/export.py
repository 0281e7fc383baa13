"""Writing a trained head as a folder that SpeechBrain's inference loads."""

import os
import shutil
from pathlib import Path

import torch
import yaml

from speechbrain_ext.evaluation.systems import equal_error_thresholds
from speechbrain_ext.inference.model_card import model_card
from speechbrain_ext.lobes.encoders import encoder_reference, pack_encoder

_HYPERPARAMS = """\
# Subspaces of a frozen speech encoder: {subspaces}.
# Load it with speechbrain_ext.inference.SubspaceEncoder, or with SpeechBrain's
# own EncoderClassifier or SpeakerRecognition, from_hparams(source=FOLDER).

# The system and the training seed that it comes from.
name: {name}
seed: {seed}

# The subspace that embeddings are taken from, one of the above.
subspace: {subspace}
sample_rate: {sample_rate}

{encoder}
network: !new:{network_class}
{network_config}

embedding_model: !new:speechbrain_ext.lobes.subspaces.SubspaceEmbedding
    encoder: !ref <encoder>
    network: !ref <network>
    layers: {layers}
    subspace: !ref <subspace>

# The encoder takes waveforms, so what stock classes run before it, and the
# classifier after it, are identities that accept lengths.
compute_features: !new:torch.nn.Identity
mean_var_norm: !new:speechbrain.nnet.containers.LengthsCapableSequential
    - !ref <compute_features>
mean_var_norm_emb: !ref <mean_var_norm>
classifier: !ref <compute_features>

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>

# Cosine score above which two utterances are called the same, a subspace:
# where both errors are equal on the validation grid.
thresholds: {thresholds}

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
{loadables}
"""


def _flow(obj):
    """An object as YAML in one line."""
    text = yaml.safe_dump(
        obj, default_flow_style=True, width=10**6, sort_keys=False
    )
    return text.replace("\n...", "").strip()


def _block(mapping, indent=4):
    """A mapping as YAML lines, indented."""
    return "\n".join(
        f"{' ' * indent}{key}: {_flow(value)}" for key, value in mapping.items()
    )


def export_subspaces(
    folder,
    encoder,
    network,
    layers,
    name="subspaces",
    seed=None,
    subspace=None,
    thresholds=None,
    card=None,
):
    """Write encoder and network to a folder, complete or not at all.

    The encoder is named by its id and revision; one that was loaded from a
    local folder is copied in, so the export holds no path of this machine.

    Arguments
    ---------
    folder : str or Path
        Where to. An earlier export there is replaced.
    encoder : speechbrain_ext.lobes.encoders.PooledEncoder
        The frozen encoder.
    network : torch.nn.Module
        With the attributes ``config`` (its arguments), ``subspaces`` and a
        ``state_dict``.
    layers : list of int
        Layers of the encoder that the network takes.
    name : str
        Name of the system in tables.
    seed : int
        Training seed, for tables over seeds.
    subspace : str
        Default subspace of the export. Default: the first.
    thresholds : dict
        Subspace -> cosine threshold of a verification decision.
    card : str
        The model card, Markdown for ``README.md``.
    """
    folder = Path(folder)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        _write(
            beside, encoder, network, layers, name, seed, subspace, thresholds
        )
        if card is not None:
            (beside / "README.md").write_text(card, encoding="utf-8")
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        if folder.exists():
            os.rename(folder, old)
        os.rename(beside, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def export_systems(folder, systems, own, encoder, layers, seed, valid, results):
    """Export a network and the systems beside it, with thresholds and cards.

    Arguments
    ---------
    folder : str or Path
        Gets ``export`` and ``export_<name>``.
    systems : dict
        Name -> module; what has no ``config`` (the baselines) needs no export.
    own : str
        Name of the system that goes to ``export``.
    encoder, layers, seed
        See :func:`export_subspaces`.
    valid : GridFeatures
        Where the thresholds are set.
    results : dict
        The run's ``results.json``, for the model cards.
    """
    labels = {f: valid.grid.labels(f) for f in valid.grid.factors}
    for name, system in systems.items():
        if not hasattr(system, "config"):
            continue
        export_subspaces(
            Path(folder) / ("export" if name == own else f"export_{name}"),
            encoder,
            system,
            layers,
            name=name,
            seed=seed,
            thresholds=equal_error_thresholds(system, valid.features, labels),
            card=model_card(results, name),
        )


def _write(folder, encoder, network, layers, name, seed, subspace, thresholds):
    """All files of an export."""
    loadables = {"network": "!ref <network>"}
    reference = encoder_reference(encoder)
    if reference is None:
        pack_encoder(encoder, folder / "encoder.ckpt")
        loadables["encoder"] = "!ref <encoder>"
        encoder_yaml = (
            "encoder: !new:speechbrain_ext.lobes.encoders.PackedEncoder\n"
        )
    else:
        encoder_yaml = (
            "encoder: !apply:speechbrain_ext.lobes.encoders.load_encoder\n"
            f"{_block(reference)}\n"
        )
    weights = {k: v.cpu() for k, v in network.state_dict().items()}
    torch.save(weights, folder / "network.ckpt")
    kind = type(network)
    text = _HYPERPARAMS.format(
        subspaces=", ".join(network.subspaces),
        name=_flow(name),
        seed=_flow(seed),
        subspace=_flow(subspace or network.subspaces[0]),
        sample_rate=encoder.sample_rate,
        encoder=encoder_yaml,
        network_class=f"{kind.__module__}.{kind.__qualname__}",
        network_config=_block(network.config),
        layers=_flow(list(layers)),
        thresholds=_flow(dict(thresholds or {})),
        loadables="\n".join(f"        {k}: {v}" for k, v in loadables.items()),
    )
    (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")
