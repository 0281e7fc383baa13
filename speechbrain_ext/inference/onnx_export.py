"""Writing an export as one ONNX file, which is used without torch."""

import copy
import io
import json
import warnings
from pathlib import Path
from unittest import mock

import torch

from speechbrain_ext.lobes.classifier_encoder import ClassifierEncoder
from speechbrain_ext.lobes.encoders import PackedEncoder
from speechbrain_ext.lobes.log_mel import LogMelStatistics
from speechbrain_ext.lobes.onnx_encoder import OnnxEncoder
from speechbrain_ext.lobes.pooling import pool_frames
from speechbrain_ext.lobes.transformers_encoders import (
    TransformersEncoder,
    WrappedEncoder,
)
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import check_new_file, replacing

# Largest difference from torch, in parts of the largest number of the vectors.
TOLERANCE = 1e-4

# Operators of ONNX: the first version that has layer normalisation, which
# exporters since torch 2.1 and runtimes since onnxruntime 1.17 know.
OPSET = 17


def export_onnx(model, path):
    """Write encoder, pooling and head as one graph, complete or not at all.

    The graph takes ``wavs`` [batch, time], float32 at the export's sample
    rate, and ``wav_lens`` [batch], float32, relative lengths above 0, at most
    1. It gives one output [batch, D] for each subspace, named as that, equal
    to ``SubspaceEncoder.encode_batch``: an utterance's vector depends neither
    on its padding nor on the rest of the batch. Batch and time are free. The
    graph checks nothing, and takes each utterance whole, however long it is:
    cut long recordings before. Its metadata are ``name``, ``encoder``,
    ``sample_rate``, ``threshold_origin``, and as JSON ``subspaces`` and
    ``thresholds``.

    What ONNX Runtime makes of noise of several lengths is compared with
    torch before the file gets its name.

    Arguments
    ---------
    model : speechbrain_ext.inference.subspaces.SubspaceEncoder
        An export that was loaded, with an encoder on waveforms (the family of
        wav2vec 2.0) or ``log_mel``.
    path : str or Path
        File to write. It holds the weights: the licence of the encoder's
        applies to it.

    Raises
    ------
    InputError
        If the packages ``onnx`` and ``onnxruntime`` are not installed, the
        path cannot be written or has another suffix, encoder or head cannot be
        written as such a graph (one over 2 GB cannot either), or it differs
        from torch by more than 1e-4 of the largest number of the vectors.

    Example
    -------
    >>> import onnx
    >>> from speechbrain_ext.inference.subspaces import SubspaceEncoder
    >>> path = getfixture("tmp_path") / "model.onnx"
    >>> export_onnx(SubspaceEncoder.from_packaged(), path)
    >>> [output.name for output in onnx.load(path).graph.output]
    ['speaker', 'content']
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401, asked for before the work
    except ImportError as error:
        raise InputError(
            f"Writing an ONNX file needs {error.name}, which is not "
            "installed: call pip install onnx onnxruntime"
        )
    check_new_file(path)
    if Path(path).suffix != ".onnx":
        raise InputError(f"{path}: give a name that ends in .onnx")
    hparams, module = model.hparams, _copy(model.mods.embedding_model)
    wavs, wav_lens = _noise(module.encoder)
    wanted = module.embed(wavs, wav_lens)
    one = onnx.load_from_string(_trace(_Utterance(module)))
    graph = _over_batch(one, {k: v.shape[1] for k, v in wanted.items()})
    about = {
        "name": hparams.name,
        "encoder": hparams.encoder_label,
        "sample_rate": str(hparams.sample_rate),
        "subspaces": json.dumps(model.subspaces),
        "thresholds": json.dumps(hparams.thresholds),
        "threshold_origin": hparams.threshold_origin,
    }
    onnx.helper.set_model_props(graph, about)
    with replacing(path) as temporary:
        onnx.save(graph, str(temporary))
        _compare(temporary, wavs, wav_lens, wanted)


def _copy(module):
    """A copy of a ``SubspaceEmbedding``, with an encoder that can be written.

    On the CPU, where torch computes with all bits.
    """
    encoder = module.encoder
    if isinstance(encoder, PackedEncoder):
        encoder = encoder.encoder
    if isinstance(encoder, (OnnxEncoder, ClassifierEncoder)) or (
        isinstance(encoder, TransformersEncoder) and not encoder.waveform
    ):
        raise InputError(
            f"Encoder '{encoder.identity['name']}' cannot be written as an "
            "ONNX graph: its spectrograms are not computed by operators of "
            "ONNX; take an encoder on waveforms, such as mini"
        )
    copied = copy.copy(module)
    copied._modules = {
        "encoder": copy.deepcopy(encoder),
        "network": copy.deepcopy(module.network),
    }
    return copied.cpu()


class _Utterance(torch.nn.Module):
    """One utterance [time] -> its vector [D] in each subspace.

    What ``PooledEncoder.forward`` and ``SubspaceEmbedding.embed`` do, without
    anything that depends on the length in Python. Means over time are those of
    64 bits, because ONNX Runtime adds number by number. Changes the module
    that it is given.
    """

    def __init__(self, module):
        super().__init__()
        encoder = module.encoder
        if isinstance(encoder, WrappedEncoder):
            # It would make a mask, which a whole utterance does not need.
            encoder.network = encoder.network.model
        elif isinstance(encoder, LogMelStatistics):
            encoder.mel.spectrogram = _Spectrogram(encoder.mel.spectrogram)
            encoder.mel.mel_scale.double()
            encoder.segments = _Segments(encoder.segments.output_size)
        self.encoder, self.network = encoder, module.network
        self.layers = module.layers

    def forward(self, wav):
        """[time] -> a tuple of [D]."""
        encoder = self.encoder
        samples = torch.as_tensor(wav.shape[0])
        zeros = wav.new_zeros(encoder.min_samples)
        end = torch.clamp(samples, min=encoder.min_samples)
        wav = encoder.normalise(wav.double()).float()
        wavs = torch.cat([wav, zeros])[None, :end]
        if isinstance(encoder, TransformersEncoder):
            hidden = TransformersEncoder.hidden_states(encoder, wavs)
            # So that the graph has none of the layers above these.
            chosen = [hidden[layer].double() for layer in self.layers]
            features = pool_frames(chosen, None, encoder.pooling)
        else:
            features = encoder.encode(wavs, [wavs.shape[1]])[:, self.layers]
        vectors = self.network(features.float())
        return tuple(vectors[name][0] for name in self.network.subspaces)


class _Spectrogram(torch.nn.Module):
    """The power spectrogram of torchaudio as a convolution.

    ONNX has no complex numbers; its own operator is slower.
    """

    def __init__(self, spectrogram):
        super().__init__()
        size, window = spectrogram.n_fft, spectrogram.window.double()
        self.hop, self.margin = spectrogram.hop_length, size // 2
        margin = (size - len(window)) // 2
        window = torch.nn.functional.pad(window, (margin, margin))
        steps = torch.arange(size).double() * (2 * torch.pi / size)
        phases = torch.arange(size // 2 + 1)[:, None] * steps
        basis = window * torch.cat([phases.cos(), phases.sin()])
        self.register_buffer("basis", basis[:, None].float())

    def forward(self, wavs):
        """[B, time] -> [B, frequencies, frames]."""
        ends = (self.margin, self.margin)
        padded = torch.nn.functional.pad(wavs[:, None], ends, mode="reflect")
        parts = torch.nn.functional.conv1d(padded, self.basis, stride=self.hop)
        real, imaginary = parts.chunk(2, dim=1)
        return (real**2 + imaginary**2).double()


class _Segments(torch.nn.Module):
    """``AdaptiveAvgPool1d``, which the exporter lacks for free lengths."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, x):
        """[B, bands, frames] -> [B, bands, count]."""
        frames, n = x.shape[2], self.count
        means = [
            x[..., i * frames // n : ((i + 1) * frames + n - 1) // n].mean(2)
            for i in range(n)
        ]
        return torch.stack(means, dim=2)


def _noise(encoder):
    """A batch of noise that swells, of lengths around those of interest."""
    longest = 3 * encoder.sample_rate
    lengths = [longest, encoder.sample_rate + 1, encoder.min_samples // 2 + 1]
    generator = torch.Generator().manual_seed(0)
    wavs = torch.randn(len(lengths), longest, generator=generator)
    wavs *= torch.linspace(0, 0.3, longest)
    return wavs, torch.tensor(lengths) / longest


def _trace(utterance):
    """The graph of one utterance, as bytes."""
    # The exporter that records what runs, by its name since torch 2.1; the
    # newer one needs onnxscript, and ten times as long.
    export, written = torch.onnx.utils.export, io.BytesIO()
    # Of no length that is compared with torch afterwards.
    wav = torch.zeros(utterance.encoder.sample_rate * 2 // 3)
    # It prints graphs that fail, whatever it is told.
    silent = mock.patch("torch._C._jit_onnx_log")
    try:
        with silent, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            export(
                utterance.eval(),
                (wav,),
                written,
                opset_version=OPSET,
                input_names=["wav"],
                dynamic_axes={"wav": {0: "time"}},
            )
    except Exception as error:  # of any part of torch
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        if "2GiB" in reason:
            reason = "such a file holds at most 2 GB of weights"
        raise InputError(
            f"Encoder '{utterance.encoder.identity['name']}' with this head "
            f"cannot be written as an ONNX graph: {reason}"
        )
    return written.getvalue()


def _over_batch(one, sizes):
    """A graph that runs that of one utterance for each of a batch.

    Arguments
    ---------
    one : onnx.ModelProto
        Of :func:`_trace`.
    sizes : dict
        Subspace -> D, in the order of its outputs.

    Returns
    -------
    onnx.ModelProto
    """
    from onnx import TensorProto, compose, helper

    def value(name, kind, shape):
        """A value of a graph."""
        return helper.make_tensor_value_info(name, kind, shape)

    node, real, whole = helper.make_node, TensorProto.FLOAT, TensorProto.INT64
    # Names of the graph inside and of the one outside must not meet.
    one = compose.add_prefix(one, "one/")
    inner, boolean = one.graph, TensorProto.BOOL
    body = helper.make_graph(
        [
            node("Gather", ["wavs", "one/row"], ["one/padded"]),
            node("Gather", ["ends", "one/row"], ["one/end"]),
            node("Slice", ["one/padded", "start", "one/end"], ["one/wav"]),
            *inner.node,
            node("Identity", ["one/go"], ["one/on"]),
        ],
        "utterance",
        [value("one/row", whole, []), value("one/go", boolean, [])],
        [value("one/on", boolean, []), *inner.output],
    )
    # The samples of each utterance, as count_samples has them.
    lengths = [
        node("Shape", ["wavs"], ["batch"], start=0, end=1),
        node("Shape", ["wavs"], ["time"], start=1, end=2),
        node("Cast", ["time"], ["all"], to=TensorProto.DOUBLE),
        node("Cast", ["wav_lens"], ["lens"], to=TensorProto.DOUBLE),
        node("Mul", ["lens", "all"], ["exact"]),
        node("Round", ["exact"], ["rounded"]),
        node("Cast", ["rounded"], ["whole"], to=whole),
        # What would be beyond the end is not sliced.
        node("Unsqueeze", ["whole", "axis"], ["ends"]),
    ]
    outputs = list(sizes)
    graph = helper.make_graph(
        [*lengths, node("Loop", ["batch", ""], outputs, body=body)],
        "subspaces",
        [
            value("wavs", real, ["batch", "time"]),
            value("wav_lens", real, ["batch"]),
        ],
        [value(name, real, ["batch", size]) for name, size in sizes.items()],
        [
            *inner.initializer,
            helper.make_tensor("start", whole, [1], [0]),
            helper.make_tensor("axis", whole, [1], [1]),
        ],
    )
    return helper.make_model(
        graph, opset_imports=one.opset_import, ir_version=one.ir_version
    )


def _compare(path, wavs, wav_lens, wanted):
    """Refuse a graph that differs from torch."""
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(path), providers=providers)
        given = {"wavs": wavs.numpy(), "wav_lens": wav_lens.numpy()}
        found = session.run(list(wanted), given)
    except Exception as error:  # they have no common base
        reason = " ".join(str(error).split())
        raise InputError(f"onnxruntime cannot run the ONNX graph: {reason}")
    for name, array in zip(wanted, found):
        difference = (torch.from_numpy(array) - wanted[name]).abs().max()
        part = (difference / wanted[name].abs().max()).item()
        if difference and not part <= TOLERANCE:  # not a number: refused too
            raise InputError(
                f"The ONNX graph was not written: in subspace '{name}' it "
                f"differs from torch by {part:.1g} of the largest number, more "
                f"than {TOLERANCE:g}"
            )
