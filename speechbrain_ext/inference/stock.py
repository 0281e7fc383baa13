"""Embedding models that SpeechBrain's unchanged scripts take from a YAML file.

Those scripts read one file of options, call ``embedding_model`` and, some of
them, load no weights: what is made here is complete when the file is read.
"""

import hashlib
from pathlib import Path

import torch

from speechbrain_ext.inference.subspaces import SubspaceEncoder, load_export
from speechbrain_ext.lobes.encoders import (
    choose_layers,
    feature_shape,
    load_encoder,
)
from speechbrain_ext.lobes.subspaces import (
    FeatureStandardiser,
    PooledFeatures,
    SubspaceEmbedding,
)
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import run_label

SYSTEMS = ("subspace", "pooled", "pooled_standardised")


class MarkPadding(torch.nn.Module):
    """Mark the padding of a batch by NaN, for a model that gets no lengths.

    A script that calls ``mean_var_norm(wavs, lens)`` and then
    ``embedding_model(wavs)`` thus loses no lengths on the way to a
    :class:`StockEmbedding`.

    Example
    -------
    >>> MarkPadding()(torch.ones(2, 4), torch.tensor([1.0, 0.5]))[1]
    tensor([1., 1., nan, nan])
    """

    def forward(self, wavs, wav_lens):
        """Waveforms [B, time], relative lengths [B] -> waveforms [B, time]."""
        time = wavs.shape[1]
        lengths = (wav_lens.double() * time).round()
        steps = torch.arange(time, device=wavs.device)
        return wavs.masked_fill(steps >= lengths.unsqueeze(1), torch.nan)


class StockEmbedding(torch.nn.Module):
    """An ``embedding_model`` of a stock script: frozen, always evaluating.

    Arguments
    ---------
    embedding : speechbrain_ext.lobes.subspaces.SubspaceEmbedding
        Encoder and network.

    Attributes
    ----------
    dim : int
        Dimension of the embeddings.
    """

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding
        self.requires_grad_(False).eval()
        second = torch.zeros(1, embedding.encoder.sample_rate)
        self.dim = embedding(second).shape[-1]

    def train(self, mode=True):
        """Stay in evaluation mode, also when a Brain trains its modules."""
        return super().train(False)

    def forward(self, wavs, wav_lens=None):
        """Embeddings of a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, shape [B, time].
        wav_lens : torch.Tensor
            Relative lengths, shape [B]. Default: up to the padding that
            :class:`MarkPadding` marked, if any.

        Returns
        -------
        torch.Tensor
            Shape [B, 1, dim].
        """
        if wav_lens is None:
            time = wavs.shape[1]
            ends = torch.arange(1, time + 1, device=wavs.device)
            wav_lens = (ends * ~wavs.isnan()).amax(dim=1).double() / time
        return self.embedding(wavs, wav_lens)


def _exported(export_folder, subspace, system, to_target):
    """An export as it is, or the features that it takes."""
    embedding = load_export(export_folder).mods.embedding_model
    if system == "subspace":
        name = subspace or embedding.subspace
        embedding.subspace = embedding.check_subspace(name)
        return embedding
    network, standardiser = embedding.network, None
    if system == "pooled_standardised":
        if not (network.standardise or to_target):
            raise InputError(
                "This export takes features as they are (standardise: False "
                "in its training): set --domain_statistics target, or "
                "--system pooled"
            )
        standardiser = network.standardiser
    return SubspaceEmbedding(
        embedding.encoder,
        PooledFeatures(standardiser=standardiser),
        embedding.layers,
    )


def _named(encoder, source, layers, system, to_target):
    """Pooled features of an encoder that no export brings."""
    if system == "subspace":
        raise InputError(
            f"Encoder '{encoder}' has no subspaces, and an export brings its "
            "own encoder: set --system pooled, or leave out --encoder"
        )
    if system == "pooled_standardised" and not to_target:
        raise InputError(
            f"Encoder '{encoder}' has no statistics of a grid: set "
            "--domain_statistics target, or --system pooled"
        )
    model = load_encoder(encoder, source)
    layers = choose_layers(model, layers)
    shape, standardiser = feature_shape(model, layers), None
    if system == "pooled_standardised":
        standardiser = FeatureStandardiser(shape)
    return SubspaceEmbedding(
        model, PooledFeatures(standardiser=standardiser), layers
    )


def _use_target_statistics(embedding, manifest):
    """Standardise by the utterances of a manifest instead of the grid."""
    if manifest is None or not Path(manifest).is_file():
        raise InputError(
            f"No target_manifest {manifest or ''}: domain_statistics target "
            "is estimated on it, a CSV or JSON file with the columns ID, wav"
        )
    hparams = {
        "subspace": embedding.subspace,
        "sample_rate": embedding.encoder.sample_rate,
    }
    SubspaceEncoder(
        modules={"embedding_model": embedding}, hparams=hparams
    ).estimate_statistics(manifest)


def subspace_embedding(
    export_folder=None,
    subspace=None,
    system="subspace",
    encoder=None,
    encoder_source=None,
    encoder_layers=None,
    domain_statistics="grid",
    target_manifest=None,
    sample_rate=16000,
):
    """The ``embedding_model`` of a stock script, with its weights.

    Arguments
    ---------
    export_folder : str or Path
        An export of a post-training recipe, a folder or hub id. Not needed
        where ``encoder`` is given.
    subspace : str
        Which subspace. Default: the export's own choice.
    system : str
        ``subspace``, or for comparison ``pooled``, the pooled features of the
        encoder as they are, or ``pooled_standardised``, by statistics.
    encoder : str
        For the pooled systems: an encoder of ``hparams/encoders/`` or the
        path of such a YAML file. Default: the export's own and its layers.
    encoder_source : str or Path
        Folder or hub id of the model of ``encoder``.
    encoder_layers : list of int
        Layers of ``encoder``. Default: those that its file names, or the last.
    domain_statistics : str
        Statistics that standardise the features: ``grid``, those of the
        export, or ``target``, estimated on ``target_manifest``.
    target_manifest : str or Path
        Unlabelled utterances of the target domain, columns ``ID`` and
        ``wav`` (relative to the manifest).
    sample_rate : int
        Of the audio that the script reads, in Hz.

    Returns
    -------
    StockEmbedding
        On the CPU; call ``(wavs, wav_lens=None) -> [B, 1, dim]``.

    Raises
    ------
    InputError
        If there is no such export, encoder, subspace or manifest, or the
        options contradict each other.

    Example
    -------
    >>> model = subspace_embedding(system="pooled", encoder="log_mel")
    >>> model(torch.randn(2, 16000), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 1, 560])
    """
    if system not in SYSTEMS:
        raise InputError(
            f"Unknown system '{system}': expected {', '.join(SYSTEMS)}"
        )
    if domain_statistics not in ("grid", "target"):
        raise InputError(
            f"Unknown domain_statistics '{domain_statistics}': expected grid "
            "or target"
        )
    to_target = domain_statistics == "target"
    if to_target and system == "pooled":
        raise InputError(
            "System pooled uses no statistics: set --system "
            "pooled_standardised, or --domain_statistics grid"
        )
    if encoder is not None:
        embedding = _named(
            encoder, encoder_source, encoder_layers, system, to_target
        )
    elif encoder_source is not None:
        raise InputError(
            "encoder_source without encoder: name one, e.g. --encoder ecapa"
        )
    else:
        embedding = _exported(export_folder, subspace, system, to_target)
    rate = embedding.encoder.sample_rate
    if rate != sample_rate:
        raise InputError(
            f"This encoder takes audio of {rate} Hz, the script reads "
            f"{sample_rate} Hz and converts nothing"
        )
    if to_target:
        _use_target_statistics(embedding, target_manifest)
    # The export may have been loaded, and statistics estimated, on a GPU: the
    # script moves the model where it wants it.
    return StockEmbedding(embedding.cpu())


def system_label(system, subspace, encoder, *others):
    """A name for the results of a system, another one for other options.

    The stock scripts keep embeddings and checkpoints in their output folder
    and take up what they find there, of whatever system it is.

    Arguments
    ---------
    system, subspace, encoder : str
        As in :func:`subspace_embedding`.
    *others : object
        Its other options. Files, and the files of folders, count with size
        and time, so that an export that was trained again has another name.

    Returns
    -------
    str
        System, its subspace or encoder, and a digest of it all.

    Example
    -------
    >>> system_label("pooled", "speaker", "ecapa", None).rsplit("-", 1)[0]
    'pooled-ecapa'
    """
    digest = hashlib.blake2b(digest_size=4)
    for part in (system, subspace, encoder, *others):
        path = Path(str(part)).expanduser()
        if not path.exists():
            digest.update(f"{part}\0".encode())
            continue
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            stat = file.stat()
            digest.update(
                f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode()
            )
    name = subspace if system == "subspace" else encoder
    return f"{run_label(system, name)}-{digest.hexdigest()}"
