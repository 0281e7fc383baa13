"""Writing a head as a folder that SpeechBrain's inference loads."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch

from speechbrain_ext.lobes.archive import encoder_reference, pack_encoder
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import file_digest, write_text
from speechbrain_ext.utils.options import check_options, optional

# Rule of a name, which tables and the names of folders are made of.
NAME = (
    lambda name: (
        name.strip() and name.isprintable() and not set(name) & set("|/\\")
    ),
    "a name in one line, without | and /",
)
_HYPERPARAMS = """\
# Subspaces of a frozen speech encoder: {subspaces}.
# Load it with speechbrain_ext.inference.SubspaceEncoder, or with SpeechBrain's
# own EncoderClassifier or SpeakerRecognition, from_hparams(source=FOLDER).

# The system, the training seed that it comes from, and what tables call its
# encoder.
name: {name}
seed: {seed}
encoder_label: {encoder_label}

# The subspace that embeddings are taken from, one of the above.
subspace: {subspace}
sample_rate: {sample_rate}

encoder: {encoder}

network: !new:{head_class}
{head_config}

embedding_model: !new:speechbrain_ext.lobes.subspaces.SubspaceEmbedding
    encoder: !ref <encoder>
    network: !ref <network>
    layers: {layers}
    subspace: !ref <subspace>

# The encoder takes waveforms, so what stock classes run before it, and the
# classifier after it, are identities that accept lengths.
modules:
    compute_features: !new:torch.nn.Identity
    mean_var_norm: !new:speechbrain.nnet.containers.LengthsCapableSequential
        - !new:torch.nn.Identity
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <modules[mean_var_norm]>
    classifier: !ref <modules[compute_features]>

# Cosine score above which two utterances are called the same, for each
# subspace: where both errors are equal on the validation grid.
thresholds: {thresholds}

label_encoder: !new:speechbrain_ext.inference.export.NoClasses

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        network: !ref <network>
{loadable}    custom_hooks:
        network: !name:speechbrain_ext.lobes.subspaces.load_weights
            digest: {digest}
{hook}"""


class NoClasses:
    """Says that an export has none, to who asks SpeechBrain to classify."""

    def decode_torch(self, _):
        """Raises an InputError."""
        raise InputError(
            "An export embeds and classifies nothing: call encode_batch or "
            "encode_file"
        )


_ENCODER_HOOK = """\
        encoder: !name:speechbrain_ext.lobes.encoders.PackedEncoder.load
            digest: {digest}
"""


def _block(mapping):
    """A mapping as YAML lines, indented; JSON is YAML in one line."""
    return "\n".join(
        f"    {key}: {json.dumps(mapping[key])}" for key in mapping
    )


def remove_exports(folder, keep=()):
    """Delete exports of an earlier run, which no longer belong to its results.

    Arguments
    ---------
    folder : str or Path
        An output folder.
    keep : iterable of str
        Names of exports that are there to stay or to be replaced.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "export_old").mkdir()
    >>> (folder / "export_old/network.ckpt").touch()
    >>> remove_exports(folder, keep=["export"])
    >>> list(folder.iterdir())
    []
    """
    for path in Path(folder).glob("export*"):
        if path.name not in keep and (path / "network.ckpt").is_file():
            shutil.rmtree(path)


def export_subspaces(
    folder,
    encoder,
    head,
    layers,
    *,
    name="subspaces",
    encoder_label=None,
    seed=None,
    subspace=None,
    thresholds=None,
    card=None,
    shared=None,
):
    """Write encoder and head to a folder, complete or not at all.

    The encoder is named by its id and revision; one that was loaded from a
    local folder is copied in, so the export holds no path of this machine.

    Arguments
    ---------
    folder : str or Path
        Where to. An earlier export there is replaced.
    encoder : speechbrain_ext.lobes.encoders.PooledEncoder
        The frozen encoder, from ``load_encoder``.
    head : torch.nn.Module
        With the attributes ``config`` (its arguments), ``subspaces`` and a
        ``state_dict``.
    layers : list of int
        Layers of the encoder that the head takes.
    name : str
        Name of the system in tables.
    encoder_label : str
        Name of the encoder in tables. Default: that of its file.
    seed : int
        Training seed, for tables over seeds.
    subspace : str
        Default subspace of the export. Default: the first.
    thresholds : dict
        Subspace -> cosine threshold of a verification decision.
    card : str
        The model card, Markdown for ``README.md``.
    shared : str or Path
        Another export of the same encoder, whose copy of it is used where one
        is needed (as a hard link, or where there are none as a copy).

    Raises
    ------
    InputError
        If a name is none, or the encoder cannot be copied, see
        :func:`speechbrain_ext.lobes.archive.pack_encoder`.

    Example
    -------
    >>> from speechbrain_ext.lobes.encoders import load_encoder
    >>> from speechbrain_ext.lobes.linear_subspaces import LinearSubspaces
    >>> head = LinearSubspaces([1, 560], {"speaker": 4})
    >>> folder = getfixture("tmp_path") / "export"
    >>> export_subspaces(folder, load_encoder("log_mel"), head, layers=[0])
    >>> sorted(path.name for path in folder.iterdir())
    ['hyperparams.yaml', 'network.ckpt']
    """
    names = {"name": name, "encoder_label": encoder_label}
    check_options(names, {"name": NAME, "encoder_label": optional(NAME)})
    kind, reference = type(head), encoder_reference(encoder)
    if reference is None:
        made = "!new:speechbrain_ext.lobes.encoders.PackedEncoder"
        loadable, hook = "        encoder: !ref <encoder>\n", _ENCODER_HOOK
    else:
        made = "!apply:speechbrain_ext.lobes.encoders.load_encoder\n"
        made += _block(reference)
        loadable = hook = ""
    fields = dict(
        subspaces=", ".join(head.subspaces),
        name=json.dumps(name),
        seed=json.dumps(seed),
        encoder_label=json.dumps(encoder_label or encoder.identity.get("name")),
        subspace=json.dumps(subspace or head.subspaces[0]),
        sample_rate=encoder.sample_rate,
        encoder=made,
        head_class=f"{kind.__module__}.{kind.__qualname__}",
        head_config=_block(head.config),
        layers=json.dumps(list(layers)),
        thresholds=json.dumps(thresholds or {}),
        loadable=loadable,
    )
    weights = {key: value.cpu() for key, value in head.state_dict().items()}
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}."
    for left in folder.parent.glob(f"{prefix}*"):  # by a run that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=prefix
    ) as beside:
        new = Path(beside) / "new"
        new.mkdir()
        torch.save(weights, new / "network.ckpt")
        if reference is None:
            _pack_once(encoder, new / "encoder.ckpt", shared)
            digest = file_digest(new / "encoder.ckpt", "sha256")
            hook = hook.format(digest=digest)
        digest = file_digest(new / "network.ckpt", "sha256")
        text = _HYPERPARAMS.format(digest=digest, hook=hook, **fields)
        write_text(new / "hyperparams.yaml", text)
        if card is not None:
            write_text(new / "README.md", card)
        if folder.exists():
            folder.rename(Path(beside) / "old")
        new.rename(folder)


def _pack_once(encoder, path, shared):
    """Write the encoder as one file, or link to that of another export."""
    packed = Path(shared or "", "encoder.ckpt")
    if not packed.is_file():
        pack_encoder(encoder, path)
        return
    try:
        os.link(packed, path)
    except OSError:  # not on this file system
        shutil.copyfile(packed, path)
