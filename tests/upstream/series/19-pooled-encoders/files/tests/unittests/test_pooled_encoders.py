"""Tests for encoders with one vector per utterance and layer

Authors
 * @AUTHORS@
"""

import pytest
import torch

RATE = 16000
LENGTHS = [RATE, 6000, 399, 6000, 9000]


def make_batch(lengths, device, seed=0):
    """Noise with an offset, its padding is not zero, and relative lengths."""
    generator = torch.Generator().manual_seed(seed)
    wavs = torch.randn(len(lengths), max(lengths), generator=generator)
    lengths = torch.tensor(lengths)
    padding = torch.arange(wavs.shape[1]) >= lengths[:, None]
    wavs = (0.1 * wavs + 0.02).masked_fill(padding, 0.5)
    return wavs.to(device), (lengths / lengths.max()).to(device)


def make_lobe(name, norm, folder, **options):
    """One of the lobes, on a tiny model with random weights."""
    import transformers

    from speechbrain.integrations.huggingface import hubert, wav2vec2, wavlm

    lobe, config, model = {
        "wav2vec2": (wav2vec2.Wav2Vec2, "Wav2Vec2Config", "Wav2Vec2Model"),
        "hubert": (hubert.HuBERT, "HubertConfig", "HubertModel"),
        "wavlm": (wavlm.WavLM, "WavLMConfig", "WavLMModel"),
    }[name]
    config = getattr(transformers, config)(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
    )
    torch.manual_seed(0)
    getattr(transformers, model)(config).save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=norm == "layer"
    )
    extractor.save_pretrained(folder)
    return lobe(str(folder), str(folder), **options)


def check_independence(encoder, device):
    """Vectors depend on the utterance alone."""
    wavs, wav_lens = make_batch(LENGTHS, device)
    vectors = encoder(wavs, wav_lens)
    assert vectors.shape[0] == len(LENGTHS) and vectors.isfinite().all()
    alone = torch.cat([encoder(wav[None, :n]) for wav, n in zip(wavs, LENGTHS)])
    assert torch.allclose(vectors, alone, rtol=1e-4, atol=1e-5)
    # Of different utterances they differ
    assert (vectors[1] - vectors[3]).norm() > 1e-3 * vectors[1].norm()
    order = [3, 0, 4, 1, 2]
    again = encoder(wavs[order], wav_lens[order])
    assert torch.allclose(again, vectors[order], rtol=1e-4, atol=1e-5)
    # As a part of something that is trained, in mixed precision
    torch.nn.ModuleList([encoder]).train()
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        assert torch.equal(encoder(wavs, wav_lens), vectors)
    assert not any(module.training for module in encoder.modules())
    return vectors


def test_log_mel_statistics(device):
    from speechbrain.lobes.models.log_mel_statistics import LogMelStatistics

    encoder = LogMelStatistics().to(device)
    assert check_independence(encoder, device).shape == (5, 1, 560)

    # Without the floor's share, it does not hear how loud an utterance is
    encoder = LogMelStatistics(floor=0.0).to(device)
    wavs, wav_lens = make_batch([RATE, 6000], device)
    loud, soft = encoder(wavs, wav_lens), encoder(wavs / 10, wav_lens)
    assert torch.allclose(loud, soft, atol=1e-3)

    # Of 100 frames, the means of four segments have the mean of all
    vector = encoder(wavs[:1, :15840])[0, 0]
    means, _, _, segments = vector.split([80, 80, 80, 320])
    assert torch.allclose(segments.view(4, 80).mean(0), means, atol=1e-4)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "wavlm"])
def test_pooled_ssl(name, norm, device, tmp_path):
    from speechbrain.lobes.models.pooled_ssl import PooledSSL

    # Neither frozen nor in evaluation mode, of weights in half precision, with
    # a norm over each utterance
    options = {"output_all_hiddens": True, "output_norm": True}
    lobe = make_lobe(name, norm, tmp_path, **options).to(device).half()
    assert lobe.model.training
    encoder = PooledSSL(lobe, pooling="mean_std", source="tiny")
    assert (encoder.n_layers, encoder.dim) == (3, 32)
    assert not any(p.requires_grad for p in encoder.parameters())
    vectors = check_independence(encoder, device)
    assert vectors.shape == (5, 3, 32)

    # What it is, of the first utterance
    wavs, wav_lens = make_batch(LENGTHS, device)
    hidden = lobe(wavs[:1])[:, 0]
    want = torch.cat([hidden.mean(1), hidden.std(1, unbiased=False)], dim=1)
    assert torch.allclose(vectors[0], want, rtol=1e-4, atol=1e-5)
    mean = PooledSSL(lobe, source="tiny")
    means = mean(wavs, wav_lens)
    assert torch.allclose(means, vectors[..., :16], rtol=1e-4, atol=1e-5)
    assert mean.identity["class"] == encoder.identity["class"]
    assert mean.identity != encoder.identity


def test_pooled_ssl_of_something_else(tmp_path):
    from speechbrain.lobes.models.pooled_ssl import PooledSSL

    lobe = make_lobe("wavlm", "group", tmp_path)
    with pytest.raises(ValueError, match=r"WavLM must return .*\[1, 24, 16\]"):
        PooledSSL(lobe)
    with pytest.raises(ValueError, match="Unknown pooling 'median'"):
        PooledSSL(lobe, pooling="median")

    class Tuple(torch.nn.Module):
        def forward(self, wavs):
            return wavs, None

    with pytest.raises(ValueError, match="got tuple"):
        PooledSSL(Tuple())


class Moments(torch.nn.Module):
    """One layer with one frame per sample, notes what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, wavs):
        self.seen.append(tuple(wavs.shape))
        return torch.stack([wavs, wavs**2], dim=-1)[None]


def test_long_recordings(device):
    from speechbrain.lobes.models.pooled_ssl import PooledSSL

    rate = 100
    encoder = PooledSSL(Moments(), sample_rate=rate, min_samples=1)
    wavs, wav_lens = make_batch([45 * rate, 30 * rate], device)
    wavs = wavs * torch.linspace(0.1, 1, wavs.shape[1], device=device)
    vectors = encoder(wavs, wav_lens)
    starts, stops = [0, 10, 20, 30], [20, 30, 40, 45]
    parts = [
        wavs[0, start * rate : stop * rate]
        for start, stop in zip(starts, stops)
    ]
    means = torch.stack([torch.stack([x.mean(), (x**2).mean()]) for x in parts])
    weights = torch.tensor([20.0, 20, 20, 15], device=device) / 75
    assert torch.allclose(vectors[0, 0], weights @ means, atol=1e-6)
    # 30 s are one window
    whole = wavs[1, : 30 * rate]
    want = torch.stack([whole.mean(), (whole**2).mean()])
    assert torch.allclose(vectors[1, 0], want, atol=1e-6)

    # What is encoded at a time does not grow with the recording
    encoder.model.seen.clear()
    encoder(torch.randn(1, 600 * rate, device=device))
    assert max(rows for rows, _ in encoder.model.seen) <= 8
    assert {time for _, time in encoder.model.seen} == {20 * rate}


def test_padded_batches(device, monkeypatch):
    from speechbrain.lobes.models import pooled_encoder

    class Mean(pooled_encoder.PooledEncoder):
        """It knows which samples are padding."""

        handles_padding, seen = True, []

        def encode(self, wavs, lengths):
            self.seen.append(tuple(wavs.shape))
            assert all(not wav[n:].any() for wav, n in zip(wavs, lengths))
            lengths = torch.tensor(lengths, device=wavs.device)
            return (wavs.sum(1) / lengths)[:, None, None]

    encoder = Mean(RATE, parameters={}).to(device)
    check_independence(encoder, device)
    encoder.seen.clear()
    encoder(*make_batch(LENGTHS, device))
    assert encoder.seen == [(5, RATE)]
    # Groups of similar length, where memory is not to grow with the batch
    if torch.device(device).type == "cpu":
        monkeypatch.setattr(pooled_encoder, "CPU_SECONDS", 1.0)
        encoder.seen.clear()
        encoder(*make_batch(LENGTHS, device))
        assert encoder.seen == [(1, RATE), (1, 9000), (2, 6000), (1, 399)]


def test_mixed_precision(device):
    from speechbrain.lobes.models.log_mel_statistics import LogMelStatistics
    from speechbrain.lobes.models.pooled_encoder import (
        PooledEncoder,
        encoding_in,
    )

    class Projection(PooledEncoder):
        def __init__(self):
            super().__init__(RATE, parameters={})
            self.linear = torch.nn.Linear(100, 8)

        def encode(self, wavs, lengths):
            return self.linear(wavs.unfold(1, 100, 100)).mean(1, keepdim=True)

    torch.manual_seed(0)
    encoder = Projection().to(device)
    wavs, _ = make_batch([RATE, RATE], device)
    exact = encoder(wavs)
    with encoding_in("bf16"):
        mixed = encoder(wavs)
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, exact)
    assert torch.allclose(mixed, exact, atol=0.02)
    assert torch.equal(encoder(wavs), exact)

    # Classes and parameters tell encoders apart
    assert encoder.identity["class"].endswith("Projection")
    assert LogMelStatistics().identity == LogMelStatistics().identity
    assert LogMelStatistics(n_mels=40).identity != LogMelStatistics().identity


def test_pooled_encoder_bad_input(device):
    from speechbrain.lobes.models.log_mel_statistics import LogMelStatistics

    encoder = LogMelStatistics().to(device)
    wavs = torch.zeros(2, 8000, device=device)
    broken = wavs.clone()
    broken[1, 4000] = torch.nan
    for batch, wav_lens, message in (
        (wavs[0], None, r"shape \[batch, time\]"),
        (wavs.long(), None, "int64"),
        (wavs[:0], None, r"got torch.float32 \[0, 8000\]"),
        (wavs.T, None, r"\[time, channels\]"),
        (wavs, [1.0], "wav_lens"),
        (wavs, [1.0, 0.0], "relative lengths"),
        (wavs, [8000, 4000], "divide by the longest"),
        (wavs, [1.0, 1e-6], "no samples"),
        (broken, None, "Utterance 1 of the batch has samples that are NaN"),
    ):
        if wav_lens is not None:
            wav_lens = torch.tensor(wav_lens)
        with pytest.raises(ValueError, match=message):
            encoder(batch, wav_lens)
    # Padding may be anything
    assert encoder(broken, torch.tensor([1.0, 0.4])).isfinite().all()
