"""Tiny models of random weights, saved as their publishers save them."""

import torch
import transformers
from hyperpyyaml import load_hyperpyyaml

from speechbrain.dataio.encoder import CategoricalEncoder

TINY = {
    **dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
    **dict(intermediate_size=24, conv_dim=[8] * 7, vocab_size=8),
    **dict(num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2),
    # What must never act: it would change every call.
    **dict(hidden_dropout=0.5, attention_dropout=0.5, feat_proj_dropout=0.5),
    **dict(activation_dropout=0.5, layerdrop=0.5, apply_spec_augment=True),
    **dict(mask_time_prob=0.5, mask_time_length=2),
}

# Model type -> what its classes begin with.
NAMES = {
    **dict(wavlm="WavLM", hubert="Hubert", wav2vec2="Wav2Vec2"),
    **{"unispeech": "UniSpeech", "unispeech-sat": "UniSpeechSat"},
}

TINY_ECAPA = """\
pretrained_path: somebody/some-hub-id
sample_rate: 16000
modules:
    compute_features: !new:speechbrain.lobes.features.Fbank
        n_mels: 20
    mean_var_norm: !new:speechbrain.processing.features.InputNormalization
        norm_type: sentence
        std_norm: False
    embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
        input_size: 20
        channels: [16, 16, 16, 16, 48]
        attention_channels: 8
        res2net_scale: 4
        se_channels: 8
        lin_neurons: 12
    classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
        input_size: 12
        out_neurons: 3
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <modules[embedding_model]>
        classifier: !ref <modules[classifier]>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


def save_tiny(folder, kind, seed=0, do_normalize=True, **changes):
    """A tiny model of random weights in Hugging Face's format."""
    name = NAMES[kind]
    config = getattr(transformers, f"{name}Config")(**{**TINY, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=do_normalize, return_attention_mask=True
    ).save_pretrained(folder)
    return str(folder)


def save_ecapa(folder):
    """A tiny EncoderClassifier of random weights."""
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(TINY_ECAPA)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = load_hyperpyyaml(TINY_ECAPA)["modules"]
    for name in ("embedding_model", "classifier"):
        torch.save(made[name].state_dict(), folder / f"{name}.ckpt")
    labels = CategoricalEncoder()
    labels.update_from_iterable("abc")
    labels.save(folder / "label_encoder.txt")
    return str(folder)


def tiny_teacher(folder):
    """A Moonshine model with random weights."""
    config = transformers.MoonshineConfig(
        **dict(hidden_size=32, intermediate_size=64),
        **dict(encoder_num_hidden_layers=3, decoder_num_hidden_layers=1),
        **dict(encoder_num_attention_heads=4, decoder_num_attention_heads=4),
    )
    torch.manual_seed(0)
    transformers.MoonshineModel(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder
