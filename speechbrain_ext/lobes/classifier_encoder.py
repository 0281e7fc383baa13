"""Speaker encoders that were trained as classifiers with SpeechBrain."""

from pathlib import Path

import torch

from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.checkpoints import torch_patched_state_dict_load
from speechbrain_ext.lobes.model_files import SPEECHBRAIN_FILES, find_model
from speechbrain_ext.lobes.pooled_encoder import PooledEncoder
from speechbrain_ext.utils.errors import InputError


def _check_weights(classifier):
    """Refuse random weights: SpeechBrain only warns of missing ones."""
    pretrainer = classifier.hparams.pretrainer
    model = classifier.mods.embedding_model
    for name, loaded in pretrainer.loadables.items():
        if loaded is model:
            state = torch_patched_state_dict_load(pretrainer.paths[name])
            missing = model.load_state_dict(state, strict=False).missing_keys
            if missing:
                raise InputError(
                    f"its {Path(pretrainer.paths[name]).name} lacks "
                    f"{len(missing)} weights, such as {missing[0]}"
                )


class ClassifierEncoder(PooledEncoder):
    """The embedding of a SpeechBrain ``EncoderClassifier``, as one layer.

    Clips under 0.1 s are padded with zeros to 0.1 s. The model's
    ``hyperparams.yaml`` is executed when it is loaded, as SpeechBrain does
    with every model: load only what you trust.

    Arguments
    ---------
    source : str
        Folder or hub id, with ``hyperparams.yaml`` and ``*.ckpt`` files.
    revision : str
        Branch, tag or commit of a hub id.

    Raises
    ------
    InputError
        If the model is not found or cannot be loaded.
    """

    def __init__(self, source, revision=None):
        files = find_model(source, revision, SPEECHBRAIN_FILES, ["*.txt"])
        folder = str(files.folder)
        try:
            classifier = EncoderClassifier.from_hparams(
                source=folder,
                # By convention the place of the weights, a hub id.
                overrides={"pretrained_path": folder},
                overrides_must_match=False,
                run_opts={"device": "cpu"},
            )
            _check_weights(classifier)
        # What damaged files raise depends on where the damage is.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise InputError(f"Cannot load {source}: {reason}")
        rate = getattr(classifier.hparams, "sample_rate", 16000)
        super().__init__(rate, {}, files, min_samples=rate // 10)
        # Not the classifier itself, which does not follow to another device.
        self.mods = classifier.mods

    def encode(self, wavs, lengths):
        """Embeddings of utterances of equal length, shape [B, 1, dim]."""
        lens = torch.ones(len(wavs), device=wavs.device)
        features = self.mods.compute_features(wavs)
        features = self.mods.mean_var_norm(features, lens)
        embeddings = self.mods.embedding_model(features, lens)
        return embeddings.reshape(len(wavs), 1, -1)
