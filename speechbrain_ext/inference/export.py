"""Writing a head as a folder that SpeechBrain's inference loads."""

import functools
import json
import math
import os
import shutil
import tempfile
import textwrap
from pathlib import Path

import torch
import yaml

from speechbrain_ext.lobes.archive import encoder_reference, pack_encoder
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import check_writable, file_digest, write_text
from speechbrain_ext.utils.options import check_options, optional

# Rule of a name, which tables and the names of folders are made of.
NAME = (
    lambda name: (
        name.strip() and name.isprintable() and not set(name) & set("|/\\")
    ),
    "a name in one line, without | and /",
)
_HYPERPARAMS = """\
# Subspaces of a frozen speech encoder: {subspaces}
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
# subspace. Its origin is the validation grid of the training (where both errors
# are equal), unlabelled recordings (at a rate of false acceptance) or pairs.
thresholds: {thresholds}
threshold_origin: {threshold_origin}
# Rate of false acceptance -> threshold, for each subspace.
false_accepts: {false_accepts}
# Scale and offset that make a score a natural log-likelihood ratio.
calibration: {calibration}
{closed_form}
label_encoder: !new:speechbrain_ext.inference.export.NoClasses

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        network: !ref <network>
{loadable}    custom_hooks:
        network: !name:speechbrain_ext.lobes.subspaces.load_weights
            digest: {digest}
{hook}{sources_hook}"""

_CLOSED_FORM = """
# What the closed form was fitted to, and the options of adapt().
sources: !new:speechbrain_ext.processing.discriminants.Sources
adaptation: !new:speechbrain_ext.processing.adaptation.Adaptation
    interventions:
{interventions}
{settings}
"""
_SOURCES_HOOK = """\
        sources: !name:speechbrain_ext.processing.discriminants.Sources.load
            digest: {digest}
"""


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
        f"    {json.dumps(str(key))}: {json.dumps(mapping[key])}"
        for key in mapping
    )


def _plain(mapping):
    """A mapping of mappings in one line of YAML, with numbers as keys."""
    return yaml.safe_dump(
        mapping, default_flow_style=True, width=math.inf
    ).strip()


def _closed_form(adaptation):
    """The YAML that makes an adaptation again."""
    settings = dict(vars(adaptation))
    lines = []
    for factor, made in settings.pop("interventions").items():
        made = functools.partial(made)  # or one that is
        lines += [
            f"{json.dumps(factor)}: !name:{made.func.__module__}."
            f"{made.func.__qualname__}"
        ]
        lines += [_block(made.keywords)] if made.keywords else []
    return _CLOSED_FORM.format(
        interventions=textwrap.indent("\n".join(lines), " " * 8),
        settings=_block(settings),
    )


def check_place(folder):
    """Refuse to replace a folder that is not an export.

    Arguments
    ---------
    folder : str or Path
        Where an export is to be written.

    Raises
    ------
    InputError
        If something else is there, or nothing can be written.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "thesis.tex").touch()
    >>> check_place(folder)
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: ... holds other files than an ...
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give the name of a folder")
    check_writable(folder)
    if not folder.is_dir() or (folder / "network.ckpt").is_file():
        return
    if any(folder.iterdir()):
        raise InputError(
            f"{folder} holds other files than an export, which would be lost: "
            "give a new folder"
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
    threshold_origin="grid",
    false_accepts=None,
    calibration=None,
    adaptation=None,
    card=None,
    shared=None,
):
    """Write encoder and head to a folder, complete or not at all.

    The encoder is named by its id and revision; one that was loaded from a
    local folder is copied in, so the export holds no path of this machine.

    Arguments
    ---------
    folder : str or Path
        Where to. An earlier export there is replaced; anything else is not.
    encoder : speechbrain_ext.lobes.pooled_encoder.PooledEncoder
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
    threshold_origin : str
        What they come from: "grid", "recordings" or "pairs".
    false_accepts : dict
        Subspace -> rate of false acceptance -> threshold.
    calibration : dict
        Subspace -> [scale, offset] of the log-likelihood ratio.
    adaptation : speechbrain_ext.processing.adaptation.Adaptation
        How a head with ``sources`` can be fitted to recordings.
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
    check_place(folder)
    names = {"name": name, "encoder_label": encoder_label}
    check_options(names, {"name": NAME, "encoder_label": optional(NAME)})
    kind, reference = type(head), encoder_reference(encoder)
    sources = getattr(head, "sources", None) if adaptation else None
    if reference is None:
        made = "!new:speechbrain_ext.lobes.encoders.PackedEncoder"
        loadable, hook = "        encoder: !ref <encoder>\n", _ENCODER_HOOK
    else:
        made = "!apply:speechbrain_ext.lobes.encoders.load_encoder\n"
        made += _block(reference)
        loadable = hook = ""
    sources_hook = ""
    if sources:
        loadable += "        sources: !ref <sources>\n"
    fields = dict(
        subspaces=json.dumps(head.subspaces),
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
        threshold_origin=json.dumps(threshold_origin),
        false_accepts=_plain(false_accepts or {}),
        calibration=json.dumps(calibration or {}),
        closed_form=_closed_form(adaptation) if sources else "",
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
        if sources:
            sources.save(new / "sources.ckpt")
            digest = file_digest(new / "sources.ckpt", "sha256")
            sources_hook = _SOURCES_HOOK.format(digest=digest)
        digest = file_digest(new / "network.ckpt", "sha256")
        text = _HYPERPARAMS.format(
            digest=digest,
            loadable=loadable,
            hook=hook,
            sources_hook=sources_hook,
            **fields,
        )
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
