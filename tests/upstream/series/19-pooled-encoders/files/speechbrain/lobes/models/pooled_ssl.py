"""One vector per utterance and layer of a self-supervised speech model.

Authors
 * @AUTHORS@
"""

import torch

from speechbrain.lobes.models.pooled_encoder import PooledEncoder


class PooledSSL(PooledEncoder):
    """A frozen self-supervised model, each layer pooled over time.

    Only utterances of equal length are encoded together, so the model gets
    neither padding nor lengths: models that normalise over time (wav2vec 2.0,
    HuBERT and WavLM base, ``output_norm``) need nothing else to be exact.

    Whisper is not for this: it pads each utterance to 30 s, and its frames do
    not say where the utterance ends.

    Arguments
    ---------
    model : torch.nn.Module
        Waveforms [B, time] -> hidden states [layers, B, frames, dim], as one of
        ``speechbrain.integrations.huggingface`` with ``output_all_hiddens``.
        It becomes float32, is frozen, and stays in evaluation mode.
    sample_rate : int
        Of the waveforms, in Hz.
    pooling : str
        ``mean``, or ``mean_std``: mean and standard deviation, twice as many
        numbers.
    min_samples : int
        Shorter utterances are padded to this length. Default: what the first
        frame of wav2vec 2.0, HuBERT and WavLM is made of.
    source : str
        Where the weights of the model come from. Only said in ``identity``.

    Raises
    ------
    ValueError
        If there is no such pooling, or what the model returns has another
        shape.

    Example
    -------
    >>> class Frames(torch.nn.Module):
    ...     def forward(self, wavs):
    ...         frames = wavs.unfold(1, size=400, step=320)
    ...         return torch.stack([frames, frames**2])
    >>> encoder = PooledSSL(Frames(), pooling="mean_std")
    >>> encoder(torch.randn(2, 16000), torch.tensor([1.0, 0.3])).shape
    torch.Size([2, 2, 800])
    """

    def __init__(
        self,
        model,
        sample_rate=16000,
        pooling="mean",
        min_samples=400,
        source=None,
    ):
        if pooling not in ("mean", "mean_std"):
            raise ValueError(
                f"Unknown pooling '{pooling}': expected mean or mean_std"
            )
        kind = type(model)
        parameters = {
            "model": f"{kind.__module__}.{kind.__qualname__}",
            "source": source,
            "pooling": pooling,
        }
        super().__init__(sample_rate, parameters, min_samples=min_samples)
        self.model, self.pooling = model, pooling
        self.float().requires_grad_(False).eval()
        # Whether the model fits is said now, not after a corpus was prepared.
        wav = torch.zeros(1, sample_rate // 2)
        wav = wav.to(next(model.parameters(), wav).device)
        self.n_layers, self.dim = self(wav).shape[1:]

    def encode(self, wavs, lengths):
        """Pooled layers of utterances of equal length, [B, layers, dim]."""
        hidden = self.model(wavs)
        found = type(hidden).__name__
        if isinstance(hidden, torch.Tensor):
            if hidden.dim() == 4 and hidden.shape[1] == len(wavs):
                return self._pool(hidden.float().transpose(0, 1))
            found = f"shape {list(hidden.shape)}"
        raise ValueError(
            f"{type(self.model).__name__} must return hidden states [layers, "
            f"batch, frames, dim], got {found} for a batch of {len(wavs)}: "
            "make it with output_all_hiddens=True"
        )

    def _pool(self, hidden):
        """Frames [B, layers, frames, dim] -> vectors."""
        if self.pooling == "mean":
            return hidden.mean(dim=2)
        spread, center = torch.std_mean(hidden, dim=2, correction=0)
        return torch.cat([center, spread], dim=-1)
