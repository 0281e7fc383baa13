"""Subspaces of a frozen encoder.

Authors
 * @AUTHORS@
"""

import pytest
import torch

WIDTHS = {"speaker": 6, "content": 4}


def make_network(**options):
    from speechbrain.lobes.models.subspaces import SubspaceNetwork

    return SubspaceNetwork(
        [2, 5], list(WIDTHS), WIDTHS, **{"hidden": [7], **options}
    )


@pytest.mark.parametrize(
    "options, size",
    [
        ({}, 10 * 7 + 7 + 7 * 10 + 10),
        ({"hidden": []}, 10 * 10 + 10),
        ({"projection": 3}, 10 * 3 + 3 + 3 * 7 + 7 + 7 * 10 + 10),
        ({"layer_mixture": True}, 2 * 2 + 5 * 7 + 7 + 7 * 10 + 10),
        ({"residual_width": 2}, 10 * 7 + 7 + 7 * 12 + 12),
    ],
)
def test_network(options, size):
    network = make_network(**options)
    assert sum(p.numel() for p in network.parameters()) == size
    found = network(torch.randn(3, 2, 5))
    widths = {name: z.shape[1] for name, z in found.items()}
    residual = options.get("residual_width", 0)
    expected = {**WIDTHS, **({"residual": residual} if residual else {})}
    assert widths == network.widths == expected


def test_statistics():
    features = torch.randn(500, 2, 5) * 4 + 7
    features[:, 0, 0] = 3.0  # a dimension that never changes
    network = make_network(standardise=True)
    network.fit_statistics(features)
    scaled = network.standardiser(features)
    deviations = scaled.std(dim=0).flatten()
    assert torch.allclose(scaled.mean(dim=0), torch.zeros(2, 5), atol=1e-5)
    assert torch.allclose(deviations[1:], torch.ones(9), atol=1e-5)
    with pytest.raises(ValueError, match="1 of 500 rows have NaN"):
        features[4] = torch.nan
        network.fit_statistics(features)


def test_weights_are_those_of_the_same_model(tmp_path):
    from speechbrain.lobes.models.log_mel_statistics import LogMelStatistics
    from speechbrain.lobes.models.subspaces import (
        SubspaceEmbedding,
        SubspaceNetwork,
    )
    from speechbrain.utils.parameter_transfer import Pretrainer

    path = tmp_path / "embedding_model.ckpt"

    def make(factors=("speaker", "content"), layers=(0,), n_mels=80, **options):
        network = SubspaceNetwork(
            [1, 7 * n_mels], factors, {"speaker": 4, "content": 4}, **options
        )
        return SubspaceEmbedding(
            LogMelStatistics(n_mels=n_mels), network, layers
        )

    def load(model):
        pretrainer = Pretrainer(
            loadables={"model": model}, paths={"model": str(path)}
        )
        pretrainer.collect_files()
        pretrainer.load_collected()

    model, other = make(), make()
    model.save(path)
    wavs = torch.randn(3, 16000)
    assert not torch.equal(model(wavs), other(wavs))
    load(other)
    assert torch.equal(model(wavs), other(wavs))
    # Weights of the same shapes, but of no use
    for key, changed in (
        ("subspaces", make(factors=("content", "speaker"))),
        ("layers", make(layers=(1,))),
        ("encoder", make(n_mels=40)),
    ):
        with pytest.raises(ValueError, match=f"ckpt is of {key} .* this model"):
            load(changed)
    # SpeechBrain's own hook would only warn
    with pytest.raises(ValueError, match="weights of this head"):
        load(make(layer_mixture=True))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="embedding_model.ckpt is damaged"):
        load(other)


@pytest.mark.parametrize("subspace", WIDTHS)
def test_embedding_of_waveforms(subspace):
    from speechbrain.lobes.models.log_mel_statistics import LogMelStatistics
    from speechbrain.lobes.models.subspaces import (
        BaselineHead,
        SubspaceEmbedding,
        SubspaceNetwork,
    )

    torch.manual_seed(0)
    encoder = LogMelStatistics()
    network = SubspaceNetwork([1, 560], list(WIDTHS), WIDTHS)
    embedding = SubspaceEmbedding(encoder, network, [0], subspace)
    wavs, lengths = torch.randn(2, 16000), torch.tensor([1.0, 0.5])
    found = embedding(wavs, lengths)
    assert found.shape == (2, 1, WIDTHS[subspace])
    assert not found.requires_grad
    # Padding has no part in it
    alone = embedding(wavs[1:, :8000])
    assert torch.allclose(found[1:], alone, atol=1e-5)
    pooled = SubspaceEmbedding(encoder, BaselineHead(), [0])
    assert torch.equal(pooled(wavs)[:, 0], encoder(wavs)[:, 0])
    with pytest.raises(ValueError, match="Unknown subspace 'style'"):
        SubspaceEmbedding(encoder, network, [0], "style")
