"""Frozen speech encoders, made from YAML files.

An encoder is described by a YAML file in ``hparams/encoders/`` (or anywhere
else) and made by :func:`load_encoder`.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from hyperpyyaml import load_hyperpyyaml

from speechbrain.utils.checkpoints import (
    mark_as_transfer,
    register_checkpoint_hooks,
)
from speechbrain_ext.lobes.archive import unpack_encoder
from speechbrain_ext.lobes.model_files import check_file
from speechbrain_ext.lobes.pooled_encoder import PooledEncoder
from speechbrain_ext.lobes.trust import ENCODER, check_constructors, trusted
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import find_hparams, hparams_folder


@dataclass
class EncoderRecipe:
    """How :func:`load_encoder` made an encoder.

    Arguments
    ---------
    named : bool
        Whether the file is one of ``hparams/encoders/``.
    text : str
        Content of the file.
    overrides : dict
        Other keys of the file that were replaced.
    """

    named: bool
    text: str
    overrides: dict


def load_encoder(
    name, source=None, revision=None, pooling=None, overrides=None
):
    """Make an encoder from its YAML file.

    The file has the keys ``encoder`` (a :class:`PooledEncoder`) and, where
    there is a model to load, ``source`` and ``revision``, and where it has
    frames, ``pooling``.

    Arguments
    ---------
    name : str
        A name in ``hparams/encoders/`` or the path of such a YAML file.
    source : str or Path
        Folder or hub id of the model. Default: the file's own.
    revision : str
        Branch, tag or commit of a hub id. Default: the file's own.
    pooling : str
        ``mean``, ``mean_std`` or ``max``. Default: the file's own.
    overrides : dict
        Other keys of the file to replace.

    Returns
    -------
    PooledEncoder
        The frozen encoder, with ``n_layers``, ``dim`` and its ``recipe``, an
        :class:`EncoderRecipe`.

    Raises
    ------
    InputError
        If the name is unknown, the file does not describe an encoder or takes
        no such option, or the model is not found.

    Example
    -------
    >>> encoder = load_encoder("log_mel")
    >>> encoder(torch.randn(2, 16000)).shape
    torch.Size([2, 1, 560])
    """
    file = find_hparams("encoders", str(name))
    text = file.read_text(encoding="utf-8")
    keys = _keys(file, text)
    given = {"source": source, "revision": revision}
    given = {key: str(one) for key, one in given.items() if one is not None}
    overrides = dict(overrides or {})
    if pooling is not None:
        overrides["pooling"] = pooling
    options = {**overrides, **given}
    for key in options:
        if key not in keys:
            raise InputError(
                f"Encoder '{name}' takes no {key}: the keys of {file.name} "
                f"are {', '.join(keys)}"
            )
    if source is not None and "revision" in keys:
        # A revision in the file is one of the file's own source.
        options.setdefault("revision", None)
    for key, value in keys.items():
        if value.tag == "!PLACEHOLDER" and key not in options:
            raise InputError(
                f"Encoder '{name}' needs a {key}"
                + (key == "source") * ": give --encoder_source FOLDER_OR_HUB_ID"
            )
    if not trusted.get():
        check_constructors(text, ENCODER, file, options)
    # Making a model draws random weights before it loads its own: which
    # encoder is chosen must not change what is drawn after it.
    with torch.random.fork_rng(devices=[]), open(file, encoding="utf-8") as f:
        loaded = load_hyperpyyaml(f, options)
    encoder = loaded.get("encoder")
    if not isinstance(encoder, PooledEncoder):
        raise InputError(
            f"{file}: its key 'encoder' must make a PooledEncoder, got "
            f"{type(encoder).__name__}"
        )
    encoder.requires_grad_(False).eval()
    try:
        shape = encoder(torch.zeros(1, encoder.sample_rate // 2)).shape
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"Encoder '{name}' cannot encode half a second: {error}"
        )
    encoder.n_layers, encoder.dim = shape[1:]
    encoder.identity = {"name": file.stem, **encoder.identity}
    named = file.parent == hparams_folder() / "encoders"
    encoder.recipe = EncoderRecipe(named, text, overrides)
    return encoder


def load_speaker_encoder(given):
    """An encoder whose one vector is a speaker embedding.

    Arguments
    ---------
    given : str or dict
        ``encoder``, a name or path as of :func:`load_encoder`, or that with
        ``encoder_source`` and ``encoder_revision``.

    Returns
    -------
    PooledEncoder

    Raises
    ------
    InputError
        As :func:`load_encoder`, and if it has several layers.

    Example
    -------
    >>> load_speaker_encoder("mini")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: Encoder 'mini' has 5 layers, of \
which none is a speaker embedding: give a speaker encoder, as ecapa
    """
    given = {"encoder": given} if isinstance(given, str) else given
    names = ("encoder", "encoder_source", "encoder_revision")
    encoder = load_encoder(*map(given.get, names))
    if encoder.n_layers > 1:
        raise InputError(
            f"Encoder '{given['encoder']}' has {encoder.n_layers} layers, of "
            "which none is a speaker embedding: give a speaker encoder, as "
            "ecapa"
        )
    return encoder


def _keys(file, text):
    """Key -> YAML node of an encoder's file."""
    try:
        mapping = yaml.compose(text)
    except yaml.YAMLError as error:
        raise InputError(f"{file}: {error}")
    if not isinstance(mapping, yaml.MappingNode):
        raise InputError(f"{file}: not a YAML mapping")
    return {key.value: value for key, value in mapping.value}


def choose_layers(encoder, layers=None):
    """Layers of an encoder, checked.

    Arguments
    ---------
    encoder : PooledEncoder
        The encoder.
    layers : list of int
        Layers; negative ones count from the last, as in a list. Default: the
        last.

    Returns
    -------
    list of int
        The layers, each from 0 on.

    Raises
    ------
    InputError
        If a layer does not exist, stands there twice, or none is chosen.

    Example
    -------
    >>> choose_layers(load_encoder("log_mel"), [-1])
    [0]
    """
    layers = [-1] if layers is None else layers
    n = encoder.n_layers
    if not isinstance(layers, (list, tuple)) or not layers:
        raise InputError(f"Expected a list of layers, got {layers!r}")
    for layer in layers:
        if type(layer) is not int or not -n <= layer < n:
            raise InputError(
                f"Layer {layer!r} does not exist: this encoder has {n} "
                f"layer{'s' * (n > 1)}, 0 to {n - 1} or -1 to -{n}"
            )
    chosen = [layer % n for layer in layers]
    if len(set(chosen)) < len(chosen):
        raise InputError(f"Layers {layers}: one of them stands there twice")
    return chosen


@register_checkpoint_hooks
class PackedEncoder(PooledEncoder):
    """An encoder out of one file of
    :func:`speechbrain_ext.lobes.archive.pack_encoder`.

    Made empty, and filled when SpeechBrain's ``Pretrainer`` loads that file
    for it; then it behaves as the encoder that was packed.

    Example
    -------
    >>> from speechbrain_ext.lobes.archive import pack_encoder
    >>> path = Path(tempfile.mkdtemp()) / "encoder.ckpt"
    >>> pack_encoder(load_encoder("log_mel"), path)
    >>> encoder = PackedEncoder()
    >>> encoder.load(path)
    >>> encoder(torch.randn(2, 16000)).shape
    torch.Size([2, 1, 560])
    """

    def __init__(self):
        super().__init__(sample_rate=None, parameters={})
        self.archive = self.encoder = None

    @mark_as_transfer
    def load(self, path, digest=None):
        """Unpack and load.

        Arguments
        ---------
        path : str or Path
            File of :func:`pack_encoder`.
        digest : str
            Its SHA-256. Default: not checked.

        Raises
        ------
        InputError
            If the file is not such an archive, or another one.
        """
        check_file(path, digest)
        with tempfile.TemporaryDirectory() as folder:
            self.encoder = load_encoder(**unpack_encoder(path, folder))
        self.archive = Path(path).resolve()
        for name in "sample_rate n_layers dim identity".split():
            setattr(self, name, getattr(self.encoder, name))

    def forward(self, wavs, wav_lens=None):
        """Vectors of a batch, as of the packed encoder."""
        return self._filled()(wavs, wav_lens)

    def frames(self, wavs, wav_lens=None):
        """Frames of a batch, as of the packed encoder."""
        return self._filled().frames(wavs, wav_lens)

    def _filled(self):
        if self.encoder is None:
            raise InputError(
                "This encoder is empty: load its file first, with the "
                "pretrainer of its hyperparams.yaml"
            )
        return self.encoder
