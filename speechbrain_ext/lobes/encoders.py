"""Frozen speech encoders with one vector an utterance and layer.

An encoder is described by a YAML file in ``hparams/encoders/`` (or anywhere
else) and made by :func:`load_encoder`. Its vectors depend on nothing but the
utterance: not on the other utterances of the batch, not on its padding and
not on the training mode.
"""

import functools
import io
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.checkpoints import (
    mark_as_transfer,
    register_checkpoint_hooks,
)

from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import digest, replacing
from speechbrain_ext.utils.hparams import find_hparams, hparams_folder

# What an encoder's file suggests for the heads. It changes no feature, and is
# no part of what the encoder is.
DEFAULTS = ("layers", "shrinkage")


class PooledEncoder(torch.nn.Module):
    """Base class: a frozen encoder, averaged over time.

    A subclass implements :meth:`encode`. The batch is divided in groups of
    equal length, so that nothing is ever padded, unless the subclass sets
    ``handles_padding``. Utterances of less than ``min_samples`` samples are
    padded with zeros at their end to that length.

    Arguments
    ---------
    sample_rate : int
        Of the waveforms, in Hz.
    n_layers : int
        Hidden layers. Default: found by :meth:`probe`.
    dim : int
        Dimension of a layer. Default: found by :meth:`probe`.
    parameters : dict
        What determines the output besides class and model, JSON-able.
    model : speechbrain_ext.lobes.model_files.ModelFiles
        The pre-trained model, where there is one.
    min_samples : int
        Shorter utterances are padded to this length.

    Attributes
    ----------
    identity : dict
        Everything that determines the output: class, parameters, and the
        model as hub id and commit or as a digest of its files. JSON-able and
        without any path, so that it can be the key of a cache.
    default_layers : list of int
        Layers to take where none are chosen: the last, unless the encoder's
        file names others.
    default_shrinkage : float
        Of the recommended head where none is chosen: 0.3, unless the
        encoder's file has another.

    Example
    -------
    >>> class Moments(PooledEncoder):
    ...     def encode(self, wavs, lengths):
    ...         return torch.stack(torch.std_mean(wavs, 1), 1).unsqueeze(1)
    >>> encoder = Moments(16000, n_layers=1, dim=2)
    >>> encoder(torch.ones(3, 800), torch.tensor([1.0, 0.5, 0.25])).shape
    torch.Size([3, 1, 2])
    """

    handles_padding = False

    def __init__(
        self,
        sample_rate,
        n_layers=None,
        dim=None,
        parameters=None,
        model=None,
        min_samples=1,
    ):
        super().__init__()
        self.sample_rate = sample_rate
        self.n_layers, self.dim = n_layers, dim
        self.min_samples = min_samples
        self.model_files = model
        self.default_layers, self.default_shrinkage = [-1], 0.3
        self.recipe = None
        self.identity = {
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            **({} if model is None else {"model": model.identity}),
            "parameters": dict(parameters or {}),
        }
        self.eval()

    def encode(self, wavs, lengths):
        """Layers of a batch, averaged over the frames of each utterance.

        Arguments
        ---------
        wavs : torch.Tensor
            float32, shape [B, time]. Of equal length, unless the class
            ``handles_padding``: then zero beyond each utterance's end.
        lengths : list of int
            Samples of each utterance; the largest is ``time``.

        Returns
        -------
        torch.Tensor
            Shape [B, n_layers, dim].
        """
        raise NotImplementedError

    def normalise(self, wav):
        """One utterance before it is encoded, shape [time]. Default: as is."""
        return wav

    @torch.no_grad()
    def forward(self, wavs, wav_lens=None):
        """Vectors of a batch of utterances.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, shape [B, time], padded at the end.
        wav_lens : torch.Tensor
            Relative lengths, shape [B]. Default: all full.

        Returns
        -------
        torch.Tensor
            float32, shape [B, n_layers, dim].

        Raises
        ------
        InputError
            If the shape is another, or an utterance has no samples.
        """
        if wavs.dim() != 2:
            raise InputError(
                "An encoder takes waveforms of shape [batch, time], got "
                f"{list(wavs.shape)}"
            )
        time = wavs.shape[1]
        if wav_lens is None:
            lengths = [time] * len(wavs)
        else:
            lengths = (wav_lens.cpu().double() * time).round().long().tolist()
        if min(lengths, default=0) < 1:
            raise InputError("An utterance of the batch has no samples")

        utterances = [
            self.normalise(wav[:length].float())
            for wav, length in zip(wavs, lengths)
        ]
        lengths = [max(length, self.min_samples) for length in lengths]
        groups = {}
        for row, length in enumerate(lengths):
            key = None if self.handles_padding else length
            groups.setdefault(key, []).append(row)
        pooled = None
        for rows in groups.values():
            longest = max(lengths[row] for row in rows)
            group = wavs.new_zeros(len(rows), longest, dtype=torch.float32)
            for i, row in enumerate(rows):
                group[i, : len(utterances[row])] = utterances[row]
            # A caller's mixed precision would change the vectors by 1 %.
            with torch.autocast(wavs.device.type, enabled=False):
                part = self.encode(group, [lengths[row] for row in rows])
            part = part.float()
            if pooled is None:
                pooled = part.new_empty(len(wavs), *part.shape[1:])
            pooled[rows] = part
        return pooled

    def probe(self):
        """Freeze the parameters, and find ``n_layers`` and ``dim``."""
        self.requires_grad_(False).eval()
        shape = self(torch.zeros(1, self.sample_rate // 2)).shape
        self.n_layers, self.dim = shape[1:]

    def train(self, mode=True):
        """Stay in evaluation mode, also when a parent module is trained."""
        return super().train(False)


@dataclass
class EncoderRecipe:
    """How :func:`load_encoder` made an encoder.

    Arguments
    ---------
    name : str
        Stem of the YAML file.
    named : bool
        Whether the file is one of ``hparams/encoders/``.
    text : str
        Content of the file, without a local folder at its key ``source``.
    overrides : dict
        Overrides besides source and revision.
    """

    name: str
    named: bool
    text: str
    overrides: dict = field(default_factory=dict)


def load_encoder(name, source=None, revision=None, overrides=None):
    """Make an encoder from its YAML file.

    The file has the keys ``encoder`` (a :class:`PooledEncoder`), where there
    is a model to load ``source`` and ``revision``, and it can have ``layers``
    and ``shrinkage``, which are taken where none are chosen.

    Arguments
    ---------
    name : str
        A name in ``hparams/encoders/`` or the path of such a YAML file.
    source : str or Path
        Folder or hub id of the model. Default: the file's own.
    revision : str
        Branch, tag or commit of a hub id. Default: the file's own.
    overrides : dict
        Other keys of the file to replace.

    Returns
    -------
    PooledEncoder
        The frozen encoder.

    Raises
    ------
    InputError
        If the name is unknown, the file does not describe an encoder or takes
        no source, or the model is not found.

    Example
    -------
    >>> encoder = load_encoder("log_mel")
    >>> encoder(torch.randn(2, 16000)).shape
    torch.Size([2, 1, 560])
    """
    file = find_hparams("encoders", str(name))
    text = file.read_text(encoding="utf-8")
    given = {"source": source, "revision": revision}
    overrides = {
        **(overrides or {}),
        **{
            key: str(value) for key, value in given.items() if value is not None
        },
    }
    try:
        mapping = yaml.compose(text)
    except yaml.YAMLError as error:
        raise InputError(f"{file}: {error}")
    if not isinstance(mapping, yaml.MappingNode):
        raise InputError(f"{file}: not a YAML mapping")
    keys = {key.value: value for key, value in mapping.value}
    unknown = [key for key in overrides if key not in keys]
    if unknown:
        raise InputError(
            f"Encoder '{name}' takes no {unknown[0]}: the keys of {file.name} "
            f"are {', '.join(keys)}"
        )
    if source is not None and "revision" in keys:
        # A revision in the file is one of the file's own source.
        overrides.setdefault("revision", None)
    for key, value in keys.items():
        if value.tag == "!PLACEHOLDER" and key not in overrides:
            raise InputError(
                f"Encoder '{name}' needs a {key}"
                + (key == "source") * ": give --encoder_source FOLDER_OR_HUB_ID"
            )
    # Making a model draws random weights before it loads its own: which
    # encoder is chosen must not change what is drawn after it.
    with torch.random.fork_rng(devices=[]), open(file, encoding="utf-8") as f:
        loaded = load_hyperpyyaml(f, overrides)
    encoder = loaded.get("encoder")
    if not isinstance(encoder, PooledEncoder):
        raise InputError(
            f"{file}: its key 'encoder' must make a PooledEncoder, got "
            f"{type(encoder).__name__}"
        )
    encoder.requires_grad_(False).eval()
    for key in DEFAULTS:
        name = f"default_{key}"
        setattr(encoder, name, loaded.get(key, getattr(encoder, name)))
    encoder.identity = {"name": file.stem, **encoder.identity}
    model = encoder.model_files
    if model is not None and model.commit is None and "source" in keys:
        if "source" not in overrides:
            # Where the file has its model is no part of what the encoder is.
            value = keys["source"]
            start, end = value.start_mark.index, value.end_mark.index
            text = f"{text[:start]}null{text[end:]}"
    for key in given:
        overrides.pop(key, None)
    # What a class takes besides is known to the file alone.
    lines = [line.partition(" #")[0].rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    # A suggestion does not count, unless the encoder itself refers to it.
    unused = [key for key in DEFAULTS if not re.search(rf"<{key}\b", text)]
    lines = [line for line in lines if _flat_key(line) not in unused]
    changing = {k: v for k, v in overrides.items() if k not in unused}
    encoder.identity["options"] = digest([lines, changing])
    encoder.recipe = EncoderRecipe(
        name=file.stem,
        named=file.parent == hparams_folder() / "encoders",
        text=text,
        overrides=overrides,
    )
    return encoder


def _flat_key(line):
    """Key of a line of YAML that gives it numbers, else None."""
    match = re.match(r"(\w+): *[][0-9., -]+$", line)
    return match and match[1]


def choose_layers(encoder, layers=None):
    """Layers of an encoder, checked.

    Arguments
    ---------
    encoder : PooledEncoder
        The encoder.
    layers : list of int
        Layers; negative ones count from the last, as in a list. Default: the
        encoder's ``default_layers``.

    Returns
    -------
    list of int
        The layers.

    Raises
    ------
    InputError
        If a layer does not exist, or none is chosen.

    Example
    -------
    >>> choose_layers(load_encoder("log_mel"))
    [-1]
    """
    if layers is None:
        layers = encoder.default_layers
    n = encoder.n_layers
    if not isinstance(layers, (list, tuple)) or not layers:
        raise InputError(f"Expected a list of layers, got {layers!r}")
    for layer in layers:
        if type(layer) is not int or not -n <= layer < n:
            raise InputError(
                f"Layer {layer!r} does not exist: this encoder has {n} "
                f"layer{'s' * (n > 1)}, 0 to {n - 1} or -1 to -{n}"
            )
    return list(layers)


def suit_head(encoder, head):
    """A closed form with the encoder's shrinkage, where it has none.

    Arguments
    ---------
    encoder : PooledEncoder
        The encoder.
    head : functools.partial or None
        E.g. of :func:`speechbrain_ext.evaluation.closed_form.channel_lda`.

    Returns
    -------
    functools.partial or None
        With ``default_shrinkage`` in place of ``shrinkage=None``.

    Example
    -------
    >>> head = functools.partial(dict, shrinkage=None, dims=2)
    >>> suit_head(load_encoder("log_mel"), head)()
    {'shrinkage': 0.3, 'dims': 2}
    """
    if getattr(head, "keywords", {}).get("shrinkage", 0) is not None:
        return head
    return functools.partial(head, shrinkage=encoder.default_shrinkage)


def feature_shape(encoder, layers=None):
    """Shape of the chosen layers of an utterance.

    Arguments
    ---------
    encoder, layers
        See :func:`choose_layers`, also for what is raised.

    Returns
    -------
    list of int
        ``[len(layers), dim]``.

    Example
    -------
    >>> feature_shape(load_encoder("log_mel"), [-1])
    [1, 560]
    """
    return [len(choose_layers(encoder, layers)), encoder.dim]


def encoder_reference(encoder):
    """Arguments of :func:`load_encoder` that make the encoder anywhere.

    Arguments
    ---------
    encoder : PooledEncoder
        From :func:`load_encoder`.

    Returns
    -------
    dict or None
        ``name`` and, for a hub model, ``source`` and ``revision`` (the
        commit); None if the encoder needs a file of this machine.

    Example
    -------
    >>> encoder_reference(load_encoder("log_mel"))
    {'name': 'log_mel'}
    """
    recipe, model = encoder.recipe, encoder.model_files
    if recipe is None or not recipe.named or recipe.overrides:
        return None
    if model is None:
        return {"name": recipe.name}
    if model.commit is None:
        return None
    return {
        "name": recipe.name,
        "source": model.source,
        "revision": model.commit,
    }


def _add_bytes(tar, name, content):
    """Add a file to a tar archive with nothing of this machine in it."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def pack_encoder(encoder, path):
    """Write an encoder as one file, for :class:`PackedEncoder`.

    An uncompressed tar archive of the encoder's YAML file, the overrides it
    was made with, and the files of its model. The same encoder always gives
    the same bytes.

    Arguments
    ---------
    encoder : PooledEncoder
        From :func:`load_encoder`.
    path : str or Path
        File to write.

    Raises
    ------
    InputError
        If the encoder was not made by :func:`load_encoder`, the files of its
        model have changed since, or its YAML file names their folder
        elsewhere than at its key ``source``.
    """
    if isinstance(encoder, PackedEncoder) and encoder.archive:
        with replacing(path) as temporary:
            shutil.copyfile(encoder.archive, temporary)
        return
    recipe, model = encoder.recipe, encoder.model_files
    if recipe is None:
        raise InputError(
            "This encoder cannot be copied into an export: make it with "
            "load_encoder from a YAML file"
        )
    if "!include:" in recipe.text:
        raise InputError(
            f"Encoder '{recipe.name}': a YAML file with !include: cannot be "
            "copied into an export; put all of it in one file"
        )
    overrides = yaml.safe_dump(recipe.overrides, sort_keys=True)
    if model is not None and model.commit is None:
        model.check_unchanged()
        elsewhere = str(model.folder.absolute()) in recipe.text + overrides
        if elsewhere or not re.search("^source *:", recipe.text, re.MULTILINE):
            raise InputError(
                f"Encoder '{recipe.name}' cannot be copied into an export: "
                f"give {model.folder} at the key 'source' of its YAML file "
                "and nowhere else"
            )
    with (
        replacing(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar,
    ):
        _add_bytes(tar, f"{recipe.name}.yaml", recipe.text.encode())
        _add_bytes(tar, "overrides", overrides.encode())
        for name in [] if model is None else _with_licence(model):
            info = tarfile.TarInfo(f"model/{name}")
            info.size = (model.folder / name).stat().st_size
            with open(model.folder / name, "rb") as file:
                tar.addfile(info, file)


def _with_licence(model):
    """Names of a model's files, and of its licence, which goes with them."""
    return [
        *model.files,
        *sorted(p.name for p in model.folder.glob("LICEN?E*")),
    ]


def _extract(tar, folder):
    """Unpack plain files, and only below the folder."""
    for member in tar.getmembers():
        target = (folder / member.name).resolve()
        if not member.isfile() or folder.resolve() not in target.parents:
            raise tarfile.TarError(f"unexpected member {member.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tar.extractfile(member) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)


@register_checkpoint_hooks
class PackedEncoder(PooledEncoder):
    """An encoder that comes out of one file of :func:`pack_encoder`.

    Made empty, and filled when SpeechBrain's ``Pretrainer`` loads that file
    for it; then it behaves as the encoder that was packed.

    Example
    -------
    >>> path = Path(tempfile.mkdtemp()) / "encoder.ckpt"
    >>> pack_encoder(load_encoder("log_mel"), path)
    >>> encoder = PackedEncoder()
    >>> encoder.load(path)
    >>> encoder(torch.randn(2, 16000)).shape
    torch.Size([2, 1, 560])
    """

    def __init__(self):
        super().__init__(sample_rate=None)
        self.archive = None
        self.encoder = None

    @mark_as_transfer
    def load(self, path):
        """Unpack and load.

        Arguments
        ---------
        path : str or Path
            File of :func:`pack_encoder`.

        Raises
        ------
        InputError
            If the file is no such archive.
        """
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            try:
                with tarfile.open(path, "r:") as tar:
                    _extract(tar, folder)
                recipe = next(folder.glob("*.yaml"))
                overrides = yaml.safe_load((folder / "overrides").read_text())
            except (OSError, tarfile.TarError, StopIteration) as error:
                raise InputError(f"{path}: not a packed encoder ({error!r})")
            model = folder / "model"
            self.encoder = load_encoder(
                str(recipe),
                str(model) if model.is_dir() else None,
                None,
                overrides,
            )
        self.archive = Path(path).resolve()
        defaults = [f"default_{key}" for key in DEFAULTS]
        for name in ("sample_rate", "n_layers", "dim", "identity", *defaults):
            setattr(self, name, getattr(self.encoder, name))

    def forward(self, wavs, wav_lens=None):
        """Vectors of a batch, as of the packed encoder."""
        if self.encoder is None:
            raise InputError(
                "This encoder is empty: load its file first, with the "
                "pretrainer of its hyperparams.yaml"
            )
        return self.encoder(wavs, wav_lens)
