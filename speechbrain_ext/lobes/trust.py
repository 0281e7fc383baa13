"""What a YAML file of somebody else may make, unless its author is trusted.

HyperPyYAML makes and calls whatever a file names: reading one can run any code.
What is read while :data:`trusted` is False keeps to a short list.
"""

import contextvars

import ruamel.yaml
import yaml
from hyperpyyaml import resolve_references

from speechbrain_ext.utils.errors import InputError

# Whether what is read now may run any code. A user's own files may.
trusted = contextvars.ContextVar("trusted", default=True)

LOBES = "speechbrain_ext.lobes."
PROCESSING = "speechbrain_ext.processing."
AUGMENT = "!name:speechbrain_ext.augment."
HUGGING_FACE = "!name:speechbrain.integrations.huggingface."
EXPORT = {
    f"!apply:{LOBES}encoders.load_encoder",
    f"!new:{LOBES}encoders.PackedEncoder",
    f"!new:{LOBES}subspaces.SubspaceNetwork",
    f"!new:{LOBES}linear_subspaces.LinearSubspaces",
    f"!new:{LOBES}subspaces.SubspaceEmbedding",
    f"!name:{LOBES}subspaces.load_weights",
    f"!name:{LOBES}encoders.PackedEncoder.load",
    f"!new:{PROCESSING}discriminants.Sources",
    f"!name:{PROCESSING}discriminants.Sources.load",
    f"!new:{PROCESSING}adaptation.Adaptation",
    f"{AUGMENT}channel.RandomChannel",
    f"{AUGMENT}interventions.RandomCrop",
    f"{AUGMENT}interventions.RandomSpeed",
    "!new:speechbrain_ext.inference.export.NoClasses",
    "!new:torch.nn.Identity",
    "!new:speechbrain.nnet.containers.LengthsCapableSequential",
    "!new:speechbrain.utils.parameter_transfer.Pretrainer",
}
# Not ClassifierEncoder, which reads the file of another model.
ENCODER = {
    f"!new:{LOBES}log_mel.LogMelStatistics",
    f"!new:{LOBES}onnx_encoder.OnnxEncoder",  # a graph of known operators
    f"!new:{LOBES}transformers_encoders.TransformersEncoder",
    f"!new:{LOBES}transformers_encoders.WrappedEncoder",
    "!apply:speechbrain_ext.models.packaged_model",
    f"{HUGGING_FACE}wav2vec2.Wav2Vec2",
    f"{HUGGING_FACE}hubert.HuBERT",
    f"{HUGGING_FACE}wavlm.WavLM",
}
# What makes plain values, and calls nothing.
_PLAIN = {"!ref", "!copy", "!PLACEHOLDER"} | {
    f"tag:yaml.org,2002:{kind}"
    for kind in "map seq str int float bool null".split()
}


def check_constructors(text, allowed, what, overrides=None):
    """Refuse a HyperPyYAML file that would run other code, before it does.

    Arguments
    ---------
    text : str
        Content of the file.
    allowed : set of str
        Constructors that it may use, such as ``!new:torch.nn.Identity``.
    what : str or Path
        Which file, for the message.
    overrides : dict or str
        What replaces values of it.

    Raises
    ------
    InputError
        Naming the first other constructor.

    Example
    -------
    >>> check_constructors("a: !new:torch.nn.Identity", EXPORT, "a.yaml")
    >>> check_constructors("a: !apply:os.system [ls]", EXPORT, "a.yaml")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: a.yaml would run !apply:os...
    """
    try:
        # Some constructors act while references are resolved, others come out
        # of that. With its own parsers: another one may see another file.
        found = _other(text, allowed, ruamel.yaml.RoundTripLoader)
        if found is None:
            resolved = resolve_references(text, overrides, True)
            found = _other(resolved, allowed, ruamel.yaml.Loader)
    # What damaged files raise depends on where the damage is.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{what} cannot be read as YAML: {reason}")
    if found is not None:
        raise InputError(
            f"{what} would run {found}, which is not among what exports are "
            "made of: load it with trust=True if you trust the author of that "
            "code"
        )


def _other(text, allowed, loader):
    """The first constructor of a YAML file that is not allowed, or None."""
    nodes, seen = [yaml.compose(text, Loader=loader)], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # an alias, perhaps of what it is part of
            continue
        seen.add(id(node))
        if node.tag not in _PLAIN | allowed:
            return node.tag
        if isinstance(node, yaml.ScalarNode | ruamel.yaml.ScalarNode):
            # Read again by HyperPyYAML, with all of Python's tags.
            if node.value.startswith("("):
                return f"the tuple {node.value}"
        for entry in node.value if isinstance(node.value, list) else ():
            nodes += entry if isinstance(entry, tuple) else [entry]
    return None
