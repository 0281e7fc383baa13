"""Embedding models that SpeechBrain's unchanged scripts take from a YAML file.

Those scripts read one file of options, call ``embedding_model`` and, some of
them, load no weights: what is made here is complete when the file is read.
"""

import re
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_ext.inference.subspaces import SubspaceEncoder, load_export
from speechbrain_ext.lobes.encoders import choose_layers, load_encoder
from speechbrain_ext.lobes.pooled_encoder import count_samples
from speechbrain_ext.lobes.subspaces import (
    BaselineHead,
    FeatureStandardiser,
    SubspaceEmbedding,
)
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import digest
from speechbrain_ext.utils.hparams import run_label
from speechbrain_ext.utils.options import check_options, one_of

SYSTEMS = ("subspace", "pooled", "pooled_standardised", "trained")


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
        lengths = torch.tensor(
            count_samples(wavs, wav_lens), device=wavs.device
        )
        steps = torch.arange(wavs.shape[1], device=wavs.device)
        return wavs.masked_fill(steps >= lengths.unsqueeze(1), torch.nan)


def marked_lengths(wavs):
    """Relative lengths [B] of waveforms that :class:`MarkPadding` marked.

    Example
    -------
    >>> marked_lengths(MarkPadding()(torch.ones(2, 4), torch.tensor([1, 0.5])))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    time = wavs.shape[-1]
    if wavs.dim() != 2 or not wavs.numel():
        return None  # refused by the encoder
    ends = torch.arange(1, time + 1, device=wavs.device)
    last = (ends * ~wavs.isnan()).amax(dim=1)
    # Of nothing but NaN one sample stays, and is refused.
    return last.clamp(min=1).double() / time


def check_rate(encoder, sample_rate):
    """Refuse an encoder of another sample rate than the script's, in Hz."""
    if encoder.sample_rate != sample_rate:
        raise InputError(
            f"This encoder takes audio of {encoder.sample_rate} Hz, the script "
            f"reads {sample_rate} Hz and converts nothing"
        )


class StockEmbedding(torch.nn.Module):
    """An ``embedding_model`` of a stock script: frozen, always evaluating.

    Arguments
    ---------
    embedding : torch.nn.Module
        Encoder and head: ``embedding(wavs, relative lengths) -> [B, 1, dim]``.
    sample_rate : int
        Of the waveforms, in Hz.

    Attributes
    ----------
    dim : int
        Dimension of the embeddings.
    """

    def __init__(self, embedding, sample_rate=16000):
        super().__init__()
        self.embedding = embedding
        self.requires_grad_(False).eval()
        self.dim = self(torch.zeros(1, sample_rate)).shape[-1]

    def train(self, mode=True):
        """Stay in evaluation mode, also when a Brain trains its modules."""
        return super().train(False)

    # SpeechBrain's containers pass lengths on to what calls them so.
    def forward(self, wavs, lengths=None):
        """Embeddings of a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, shape [B, time].
        lengths : torch.Tensor
            Relative lengths, shape [B]. Default: up to the padding that
            :class:`MarkPadding` marked, if any.

        Returns
        -------
        torch.Tensor
            Shape [B, 1, dim].
        """
        if lengths is None:
            lengths = marked_lengths(wavs)
        return self.embedding(wavs, lengths)


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
    trust=False,
):
    """The ``embedding_model`` of a stock script, with its weights.

    Arguments
    ---------
    export_folder : str or Path
        An export of a post-training recipe, a folder or hub id. Not needed
        where ``encoder`` is given. Of the system ``trained`` the output folder
        of ``train_speaker_embeddings.py``.
    subspace : str
        Which subspace. Default: the export's own choice.
    system : str
        ``subspace``, or for comparison ``pooled``, the pooled features of the
        encoder as they are, ``pooled_standardised``, by statistics, or
        ``trained``, see :func:`trained_embedding`.
    encoder : str
        For the pooled systems: an encoder of ``hparams/encoders/`` or the
        path of such a YAML file. Default: the export's own and its layers.
    encoder_source : str or Path
        Folder or hub id of the model of ``encoder``.
    encoder_layers : list of int
        Layers of ``encoder``. Default: the last.
    domain_statistics : str
        Statistics that standardise the features: ``grid``, those of the
        export, or ``target``, estimated on ``target_manifest``.
    target_manifest : str or Path
        Unlabelled utterances of the target domain, columns ``ID`` and
        ``wav`` (relative to the manifest).
    sample_rate : int
        Of the audio that the script reads, in Hz.
    trust : bool
        Whether the export may run code of its own, see
        :func:`~speechbrain_ext.inference.subspaces.load_export`.

    Returns
    -------
    StockEmbedding
        On the CPU; call ``(wavs, lengths=None) -> [B, 1, dim]``.

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
    options = {"system": system, "domain_statistics": domain_statistics}
    statistics = one_of("grid", "target")
    rules = {"system": one_of(*SYSTEMS), "domain_statistics": statistics}
    check_options(options, rules)
    to_target = domain_statistics == "target"
    if to_target and system in ("pooled", "trained"):
        raise InputError(
            f"System {system} uses no statistics: set --system "
            "pooled_standardised, or --domain_statistics grid"
        )
    if to_target and not Path(str(target_manifest)).is_file():
        raise InputError(
            f"target_manifest is {target_manifest}: domain_statistics target "
            "is estimated on it, a CSV or JSON file with the columns ID, wav"
        )
    if encoder is None:
        given = {"source": encoder_source, "layers": encoder_layers}
        for name, value in given.items():
            if value is not None:
                raise InputError(
                    f"encoder_{name} without encoder: name one, e.g. --encoder "
                    "ecapa"
                )
        if system == "trained":
            return trained_embedding(export_folder, sample_rate)
        embedding = load_export(export_folder, trust=trust)
        embedding = embedding.mods.embedding_model
    else:
        if system != ("pooled_standardised" if to_target else "pooled"):
            raise InputError(
                f"Encoder '{encoder}' has no subspaces, and no statistics of a "
                "grid: set --system pooled, or --system pooled_standardised "
                "--domain_statistics target, or leave out --encoder"
            )
        model = load_encoder(encoder, encoder_source)
        layers = choose_layers(model, encoder_layers)
        embedding = SubspaceEmbedding(model, BaselineHead(), layers)
    check_rate(embedding.encoder, sample_rate)
    if system == "subspace":
        embedding.subspace = embedding.choose_subspace(subspace)
    else:
        embedding = _pooled(embedding, system, to_target)
    if to_target:
        SubspaceEncoder(
            modules={"embedding_model": embedding},
            hparams={
                "subspace": embedding.subspace,
                "sample_rate": sample_rate,
            },
        ).estimate_statistics(target_manifest)
    # The export may have been loaded, and statistics estimated, on a GPU: the
    # script moves the model where it wants it.
    return StockEmbedding(embedding.cpu(), sample_rate)


def trained_embedding(folder, sample_rate=16000):
    """What ``train_speaker_embeddings.py`` trained, at its best checkpoint.

    Its ``hyperparams.yaml`` is executed, as SpeechBrain does with every model.

    Arguments
    ---------
    folder : str or Path
        The ``output_folder`` of a training with one of the files
        ``train_subspace.yaml`` and ``train_ecapa_frames.yaml``.
    sample_rate : int
        Of the audio that the script reads, in Hz.

    Returns
    -------
    StockEmbedding

    Raises
    ------
    InputError
        If there is no such training, or it has no checkpoint yet.
    """
    file = Path(str(folder), "hyperparams.yaml")
    if not file.is_file():
        raise InputError(
            f"There is no {file}: system trained takes as export_folder the "
            "output folder of train_speaker_embeddings.py"
        )
    # Relative paths in the file may have been meant from another folder.
    overrides = {"checkpointer": {"checkpoints_dir": str(file.parent / "save")}}
    text = file.read_text(encoding="utf-8")
    # A post-training and its exports have a file of this name, too.
    if not re.search("^compute_cost:", text, re.MULTILINE):
        raise InputError(
            f"{file} is not of train_speaker_embeddings.py, whose output "
            "folder system trained takes as export_folder"
        )
    hparams = load_hyperpyyaml(text, overrides)
    if not hparams["checkpointer"].recover_if_possible(min_key="ErrorRate"):
        raise InputError(f"{folder}: this training has no checkpoint yet")
    return StockEmbedding(hparams["embedding_model"], sample_rate)


def _pooled(embedding, system, to_target):
    """The features that a head takes in place of its subspaces."""
    model, layers = embedding.encoder, embedding.layers
    standardiser = None
    if to_target:
        standardiser = FeatureStandardiser([len(layers), model.dim])
    elif system == "pooled_standardised":
        if not embedding.network.standardise:
            raise InputError(
                "This export takes features as they are (standardise: False "
                "in its training): set --domain_statistics target, or "
                "--system pooled"
            )
        standardiser = embedding.network.standardiser
    return SubspaceEmbedding(
        model, BaselineHead(standardiser=standardiser), layers
    )


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
    stamps = [_stamp(part) for part in (system, subspace, encoder, *others)]
    name = subspace if system == "subspace" else encoder
    return f"{run_label(system, name)}-{digest(stamps)[:8]}"


def _stamp(part):
    """An option, or name, size and time of the files that it names."""
    path = Path(str(part)).expanduser()
    if not path.exists():
        return str(part)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
