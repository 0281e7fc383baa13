"""Embedding and verifying utterances in the subspaces of an export."""

from pathlib import Path

import torch
from speechbrain.inference.interfaces import Pretrained

from speechbrain_ext.dataio.manifest import (
    add_audio_pipeline,
    check_audio,
    load_manifest,
    read_audio,
)
from speechbrain_ext.lobes.model_files import SPEECHBRAIN_FILES, find_model
from speechbrain_ext.lobes.subspaces import SubspaceEmbedding
from speechbrain_ext.utils.errors import InputError


class SubspaceEncoder(Pretrained):
    """Subspaces of utterances, from an export of a post-training recipe.

    Made by ``SubspaceEncoder.from_hparams(source=FOLDER_OR_HUB_ID)``; see
    ``speechbrain.inference.interfaces.Pretrained`` for the other arguments.

    Example
    -------
    >>> from speechbrain_ext.inference.export import export_subspaces
    >>> from speechbrain_ext.lobes.encoders import load_encoder
    >>> from speechbrain_ext.lobes.subspaces import SubspaceNetwork
    >>> encoder = load_encoder("log_mel")
    >>> network = SubspaceNetwork(
    ...     [1, encoder.dim], ["speaker", "content"],
    ...     {"speaker": 8, "content": 8},
    ... )
    >>> folder = str(getfixture("tmp_path") / "export")
    >>> export_subspaces(folder, encoder, network, layers=[-1])
    >>> model = SubspaceEncoder.from_hparams(source=folder)
    >>> model.subspaces
    ['speaker', 'content']
    >>> model.encode_batch(torch.randn(2, 16000), subspace="content").shape
    torch.Size([2, 1, 8])
    """

    MODULES_NEEDED = ["embedding_model"]
    HPARAMS_NEEDED = ["subspace", "sample_rate"]

    @property
    def subspaces(self):
        """Names of the subspaces."""
        return list(self.mods.embedding_model.network.subspaces)

    def _name(self, subspace):
        model = self.mods.embedding_model
        return model.check_subspace(subspace or model.subspace)

    def encode_batch(self, wavs, wav_lens=None, subspace=None):
        """Embeddings of a batch in one subspace.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, shape [B, time] or [time], at ``hparams.sample_rate``.
        wav_lens : torch.Tensor
            Relative lengths, shape [B]. Default: all full.
        subspace : str
            Which one. Default: the export's ``subspace``.

        Returns
        -------
        torch.Tensor
            Shape [B, 1, D].

        Raises
        ------
        InputError
            If there is no such subspace.
        """
        name = self._name(subspace)
        if wavs.dim() == 1:
            wavs = wavs.unsqueeze(0)
        if wav_lens is None:
            wav_lens = torch.ones(len(wavs))
        embeddings = self.mods.embedding_model.embed(
            wavs.float().to(self.device), wav_lens.to(self.device)
        )
        return embeddings[name].unsqueeze(1)

    def forward(self, wavs, wav_lens=None, subspace=None):
        """The same as :meth:`encode_batch`."""
        return self.encode_batch(wavs, wav_lens, subspace)

    def encode_file(self, path, subspace=None):
        """Embedding of one file in one subspace.

        Arguments
        ---------
        path : str or Path
            An audio file; other rates are resampled, channels averaged.
        subspace : str
            Which one. Default: the export's ``subspace``.

        Returns
        -------
        torch.Tensor
            Shape [1, 1, D].

        Raises
        ------
        InputError
            If the file cannot be read or there is no such subspace.
        """
        self._name(subspace)
        wav = read_audio(
            str(path), str(path), sample_rate=self.hparams.sample_rate
        )
        return self.encode_batch(wav, subspace=subspace)

    def verify_files(self, path_a, path_b, subspace=None):
        """Whether two files agree in the factor of a subspace.

        Arguments
        ---------
        path_a, path_b : str or Path
            Two audio files.
        subspace : str
            Which one. Default: the export's ``subspace``.

        Returns
        -------
        score : torch.Tensor
            Cosine similarity, shape [1].
        decision : torch.Tensor
            Whether it exceeds the export's threshold, shape [1]. The
            threshold comes from the validation grid of the training; choose
            your own for another domain.
        """
        name = self._name(subspace)
        thresholds = getattr(self.hparams, "thresholds", None) or {}
        if name not in thresholds:
            raise InputError(
                f"This export has no threshold for subspace '{name}': add it "
                "to thresholds in its hyperparams.yaml, or compare "
                "encode_file() of both files"
            )
        score = torch.cosine_similarity(
            self.encode_file(path_a, name)[:, 0],
            self.encode_file(path_b, name)[:, 0],
        )
        return score, score > thresholds[name]

    def estimate_statistics(self, manifest, data_root=None):
        """Replace the input statistics by those of a target domain.

        Unlabelled audio suffices. Works on exports whose network was trained
        on standardised features.

        Arguments
        ---------
        manifest : str, Path or DynamicItemDataset
            Utterances with the columns ``ID`` and ``wav``.
        data_root : str or Path
            Folder that the paths start from. Default: the manifest's.

        Returns
        -------
        SubspaceEncoder
            Itself.

        Raises
        ------
        InputError
            If the network uses no statistics, or the audio cannot be read.
        """
        model = self.mods.embedding_model
        if not getattr(model.network, "standardise", False):
            raise InputError(
                "This export takes features as they are (standardise: False "
                "in its training): there are no statistics to estimate"
            )
        if not hasattr(manifest, "data"):
            manifest = load_manifest(manifest, data_root)
        check_audio(manifest, self.hparams.sample_rate)
        audio = add_audio_pipeline(manifest, self.hparams.sample_rate)
        pooled = [
            model.pooled(item["sig"].unsqueeze(0).to(self.device))
            for item in audio
        ]
        model.network.fit_statistics(torch.cat(pooled))
        return self


def load_exports(folders, names=None, device=None):
    """Several exports side by side.

    Arguments
    ---------
    folders : str or list
        An export, or several.
    names : list of str
        What to call them. Default: the names in the exports; those that occur
        twice get their training seed, as in ``joint@1987``.
    device : str
        Where they run. Default: a GPU where there is one.

    Returns
    -------
    dict
        Name -> :class:`SubspaceEncoder`.

    Raises
    ------
    InputError
        If a folder holds no export, or two cannot be told apart.
    """
    if isinstance(folders, (str, Path)) or not folders:
        folders = [folders or None]
    models = [load_export(folder, device) for folder in folders]
    if names is None:
        names = [getattr(m.hparams, "name", "subspaces") for m in models]
        names = [
            f"{name}@{getattr(model.hparams, 'seed', None)}"
            if names.count(name) > 1
            else name
            for name, model in zip(names, models)
        ]
    if len(names) != len(folders) or len(set(names)) < len(names):
        raise InputError(
            f"{len(folders)} exports are called {', '.join(names)}: give each "
            "a name of its own, as in --export_names='[a, b]'"
        )
    return dict(zip(names, models))


def load_export(folder, device=None):
    """Load an export, or say why it cannot be.

    Arguments
    ---------
    folder : str or Path
        A folder or hub id.
    device : str
        Where it runs. Default: a GPU where there is one.

    Returns
    -------
    SubspaceEncoder

    Raises
    ------
    InputError
        If there is nothing, another model, or a damaged export.
    """
    if folder is None:
        raise InputError(
            "No export_folder: give --export_folder FOLDER_OR_HUB_ID, what a "
            "post-training run left in <output_folder>/export"
        )
    try:
        files = find_model(folder, None, SPEECHBRAIN_FILES)
    except InputError as error:
        raise InputError(
            f"No export in '{folder}': --export_folder takes the folder "
            "<output_folder>/export of a finished post-training run, or the "
            "hub id of such a folder"
        ) from error
    # Another model's file may download things while it is read.
    options = files.folder / "hyperparams.yaml"
    if SubspaceEmbedding.__name__ not in options.read_text(encoding="utf-8"):
        raise InputError(
            f"'{folder}' is a SpeechBrain model but no export of a "
            "post-training recipe; for an encoder to compare with, give "
            "--system pooled --encoder ecapa --encoder_source FOLDER_OR_HUB_ID"
        )
    run_opts = {} if device is None else {"device": device}
    try:
        return SubspaceEncoder.from_hparams(
            source=str(files.folder), run_opts=run_opts
        )
    except InputError:
        raise
    # What damaged files raise depends on where the damage is.
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(
            f"Cannot load the export '{folder}': {reason}"
        ) from error
