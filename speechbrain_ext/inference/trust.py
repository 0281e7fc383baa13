"""What an export may run when it is loaded.

HyperPyYAML makes any object and calls any function that a file names: loading a
file of somebody else means running it. Here the file of an export is read
without making anything, and refused if it names anything but the classes and
functions that exports of this package are made of.
"""

import tarfile

import yaml

from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import hparams_folder

LOBES = "speechbrain_ext.lobes."
LOAD_ENCODER = f"apply:{LOBES}encoders.load_encoder"
# Tags that only refer to something else in the file.
PLAIN = ("ref", "copy", "tuple", "PLACEHOLDER")
EXPORT = {
    LOAD_ENCODER,
    f"new:{LOBES}encoders.PackedEncoder",
    f"new:{LOBES}subspaces.SubspaceNetwork",
    f"new:{LOBES}linear_subspaces.LinearSubspaces",
    f"new:{LOBES}subspaces.SubspaceEmbedding",
    f"name:{LOBES}subspaces.load_weights",
    f"name:{LOBES}encoders.PackedEncoder.load",
    "new:speechbrain_ext.inference.export.NoClasses",
    "new:torch.nn.Identity",
    "new:speechbrain.nnet.containers.LengthsCapableSequential",
    "new:speechbrain.utils.parameter_transfer.Pretrainer",
}
HUGGING_FACE = "name:speechbrain.integrations.huggingface."
# Not ClassifierEncoder: it runs the file of another model.
ENCODER = {
    f"new:{LOBES}log_mel.LogMelStatistics",
    f"new:{LOBES}transformers_encoders.TransformersEncoder",
    f"new:{LOBES}transformers_encoders.WrappedEncoder",
    "apply:speechbrain_ext.models.packaged_model",
    f"{HUGGING_FACE}wav2vec2.Wav2Vec2",
    f"{HUGGING_FACE}hubert.HuBERT",
    f"{HUGGING_FACE}wavlm.WavLM",
}


def check_export(folder):
    """Refuse an export that would run anything of its own.

    Arguments
    ---------
    folder : Path
        Of the export.

    Raises
    ------
    InputError
        Naming what it would run.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "hyperparams.yaml").write_text("a: !apply:os.system [ls]")
    >>> check_export(folder)
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: ... apply:os.system...
    """
    path = folder / "hyperparams.yaml"
    _check(path, path.read_text(encoding="utf-8"), EXPORT)
    packed = folder / "encoder.ckpt"
    if packed.is_file():
        try:
            with tarfile.open(packed, "r:") as tar:
                for member in tar.getmembers():
                    if "/" not in member.name and member.isfile():
                        text = tar.extractfile(member).read().decode("utf-8")
                        _check(f"{packed}, {member.name}", text, ENCODER)
        except (tarfile.TarError, UnicodeDecodeError) as error:
            raise InputError(f"{packed} is not a packed encoder: {error}")


def _check(where, text, allowed):
    """Refuse a file with other tags than those allowed."""
    try:
        root = yaml.compose(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where} cannot be read as YAML: {error}")
    seen, nodes = set(), [root] if root else []
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        tag = node.tag.removeprefix("!")
        if tag != node.tag and tag not in allowed and tag not in PLAIN:
            _refuse(where, tag)
        if tag == LOAD_ENCODER:
            _check_encoder(where, node)
        if isinstance(node, yaml.MappingNode):
            nodes += [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value


def _check_encoder(where, node):
    """Refuse all but encoders of this package that run nothing else."""
    given = {}
    if isinstance(node, yaml.MappingNode):
        given = {key.value: value.value for key, value in node.value}
    folder = hparams_folder() / "encoders"
    files = {path.stem: path for path in folder.glob("*.yaml")}
    name = given.get("name")
    if set(given) - {"name", "source", "revision"} or name not in files:
        _refuse(where, f"load_encoder of {name!r}")
    _check(files[name], files[name].read_text(encoding="utf-8"), ENCODER)


def _refuse(where, what):
    raise InputError(
        f"{where} would run {what}, which is not among what exports are made "
        "of: load it with trust=True if you trust the author of that code"
    )
