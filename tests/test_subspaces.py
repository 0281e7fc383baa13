"""Standardiser, heads, embedding module."""

import pytest
import torch

from speechbrain_ext.lobes.log_mel import LogMelStatistics
from speechbrain_ext.lobes.subspaces import (
    BaselineHead,
    FeatureStandardiser,
    SubspaceEmbedding,
    SubspaceNetwork,
)
from speechbrain_ext.utils.errors import InputError

TWO = {"speaker": 5, "content": 3}


def network(shape=(2, 6), factors=("speaker", "content"), **options):
    torch.manual_seed(0)
    return SubspaceNetwork(list(shape), list(factors), TWO, [7], **options)


def test_slices_are_those_of_the_output():
    net, x = network(), torch.randn(4, 2, 6)
    out = net(x)
    whole = net.mlp(x.flatten(1))
    assert list(out) == net.subspaces == ["speaker", "content"]
    assert torch.equal(out["speaker"], whole[:, :5])
    assert torch.equal(out["content"], whole[:, 5:])
    net = network(factors=["content"], residual_width=4)
    shapes = {name: z.shape for name, z in net(x).items()}
    assert shapes == {"content": (4, 3), "residual": (4, 4)}
    assert net.subspaces == list(shapes)


def test_layer_mixture():
    net, x = network(layer_mixture=True), torch.randn(4, 2, 6)
    # At the start all layers weigh the same.
    expected = net.mlp(x.mean(1))[:, 5:]
    assert torch.allclose(net(x)["content"], expected, atol=1e-6)
    with torch.no_grad():
        net.mixture[0] = torch.tensor([50.0, 0.0])
    assert torch.allclose(net(x)["speaker"], net.mlp(x[:, 0])[:, :5], atol=1e-5)
    net(x)["speaker"].sum().backward()
    assert net.mixture.grad is not None
    # The speaker's slice does not move the mixture of the content.
    assert (net.mixture.grad[1] == 0).all()


def test_standardiser():
    torch.manual_seed(0)
    x = torch.randn(500, 2, 6) * 3 + 5
    x[:, 0, 0] = 1.5  # never changes: must not be blown up
    standardiser = FeatureStandardiser([2, 6])
    assert torch.equal(standardiser(x), x)
    y = standardiser.fit(x)(x)
    assert y.mean(0).abs().max() < 1e-4
    std = y.std(0)
    assert std[0, 0] == 0
    assert torch.allclose(std.flatten()[1:], torch.ones(11), atol=1e-4)
    with pytest.raises(InputError, match="at least 2"):
        standardiser.fit(x[:1])


def test_statistics_only_where_asked_for_and_in_the_state():
    x = torch.randn(50, 2, 6) + 4
    published, ours = network(), network(standardise=True)
    published.fit_statistics(x)
    ours.fit_statistics(x)
    assert (published.standardiser.mean == 0).all()
    assert (ours.standardiser.mean > 3).all()
    baseline = BaselineHead(standardiser=FeatureStandardiser([2, 6]))
    assert torch.equal(baseline(x)["pooled"], x.flatten(1))
    baseline.fit_statistics(x)
    standardised = ours.standardiser(x).flatten(1)
    assert torch.equal(baseline(x)["pooled"], standardised)


def test_projection():
    """A linear map of what enters, before the first layer and its ReLU."""
    x = torch.randn(4, 2, 6)
    for size, mixture in ((12, False), (6, True)):
        net = network(projection=3, layer_mixture=mixture)
        first, second = net.mlp[:2]
        assert first.weight.shape == (3, size) and second.weight.shape == (7, 3)
        pooled = x.mean(1) if mixture else x.flatten(1)
        low = pooled @ first.weight.T + first.bias
        expected = net.mlp[1:](low)[:, :5]
        assert torch.allclose(net(x)["speaker"], expected, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, dict(layer_mixture=True), dict(projection=4)]
)
def test_config_and_state_build_the_same_network(options):
    x = torch.randn(3, 2, 6) + 4
    net = network(standardise=True, residual_width=2, **options)
    net.fit_statistics(x)
    again = SubspaceNetwork(**net.config)
    again.load_state_dict(net.state_dict())
    for name, z in net(x).items():
        assert torch.equal(z, again(x)[name])


def test_refusals():
    with pytest.raises(InputError, match="No width for subspace 'style'"):
        network(factors=["style"])
    with pytest.raises(InputError, match="list of factors is empty"):
        network(factors=[])


class Doubler(torch.nn.Module):
    """Stands in for an encoder: two layers of known numbers."""

    def forward(self, wavs, wav_lens=None):
        return torch.stack([wavs, 2 * wavs], dim=1)


def test_embedding_module():
    net = network(shape=(1, 6))
    module = SubspaceEmbedding(Doubler(), net, layers=[1])
    wavs = torch.randn(3, 6)
    expected = net(2 * wavs.unsqueeze(1))
    assert torch.equal(module(wavs), expected["speaker"].unsqueeze(1))
    other = SubspaceEmbedding(Doubler(), net, [1], subspace="content")
    assert other(wavs, torch.ones(3)).shape == (3, 1, 3)
    assert not any(p.requires_grad for p in module.parameters())
    with pytest.raises(InputError, match="has speaker, content"):
        SubspaceEmbedding(Doubler(), net, [1], subspace="accent")


def test_saved_embedding_is_loaded_into_the_same_model(tmp_path):
    path, widths = tmp_path / "model.ckpt", {"a": 4, "b": 4}

    def make(factors="ab", layers=(0,), n_mels=80):
        net = SubspaceNetwork([1, 7 * n_mels], list(factors), widths)
        return SubspaceEmbedding(LogMelStatistics(n_mels=n_mels), net, layers)

    model, other, wavs = make(), make(), torch.randn(2, 16000)
    model.save(path)
    assert not torch.equal(model(wavs), other(wavs))
    other.load(path)
    assert torch.equal(model(wavs), other(wavs))
    # Weights of the same shapes, but of no use
    for key, changed in (
        ("subspaces", make("ba")),
        ("layers", make(layers=(1,))),
        ("encoder", make(n_mels=40)),
    ):
        with pytest.raises(InputError, match=f"is of {key} .*, this model of"):
            changed.load(path)
    torch.save(model.network.state_dict(), path)
    with pytest.raises(InputError, match="is of encoder None, this model"):
        other.load(path)
