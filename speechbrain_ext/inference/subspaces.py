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
    folders = [folders] if isinstance(folders, (str, Path)) else list(folders)
    models = [_load_export(folder, device) for folder in folders]
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


def _load_export(folder, device):
    path = Path(str(folder))
    # What looks like a hub id is left to SpeechBrain, the rest is checked.
    is_hub_id = str(folder).count("/") == 1 and not path.parent.is_dir()
    if not (path / "hyperparams.yaml").is_file() and not is_hub_id:
        raise InputError(
            f"No export in {folder}: expected a folder with hyperparams.yaml, "
            "as a training run leaves it in <output_folder>/export"
        )
    options = {} if device is None else {"run_opts": {"device": device}}
    return SubspaceEncoder.from_hparams(source=str(folder), **options)
