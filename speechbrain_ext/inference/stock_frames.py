"""An embedding model of stock scripts that is trained on frozen frames."""

import torch
from torch.nn.utils.rnn import pad_sequence

from speechbrain_ext.inference.stock import check_rate, marked_lengths
from speechbrain_ext.lobes.encoders import choose_layers, load_encoder


class FrameModel(torch.nn.Module):
    """The trained part of a :class:`FrameEmbedding`.

    The layers are mixed by trained weights, as in SUPERB (arXiv 2105.01051),
    the mean over time is subtracted, and a model makes an embedding of it.

    Arguments
    ---------
    n_layers : int
        Layers that are mixed.
    model : torch.nn.Module
        ``model(frames [B, time, dim], relative lengths [B]) -> [B, 1, D]``.

    Example
    -------
    >>> from speechbrain.lobes.models.Xvector import Xvector
    >>> made = FrameModel(2, Xvector("cpu", in_channels=4, lin_neurons=3))
    >>> made([torch.randn(2, 50, 4), torch.randn(2, 40, 4)]).shape
    torch.Size([2, 1, 3])
    """

    def __init__(self, n_layers, model):
        super().__init__()
        self.mixture = torch.nn.Parameter(torch.zeros(n_layers))
        self.model = model

    def forward(self, frames):
        """Embeddings [B, 1, D] of a list of frames [n_layers, time, dim]."""
        weights = self.mixture.softmax(dim=0)
        mixed = [torch.einsum("l,ltd->td", weights, one) for one in frames]
        mixed = [one - one.mean(dim=0) for one in mixed]
        if not self.training:
            # One at a time: the convolutions would see the padding.
            return torch.cat([self.model(one[None]) for one in mixed])
        lengths = torch.tensor([float(len(one)) for one in mixed])
        lengths = (lengths / lengths.max()).to(mixed[0].device)
        return self.model(pad_sequence(mixed, batch_first=True), lengths)


class FrameEmbedding(torch.nn.Module):
    """An ``embedding_model`` that is trained on frames of a frozen encoder.

    Arguments
    ---------
    model : callable
        Makes the model of a :class:`FrameModel` from ``input_size``, such as
        SpeechBrain's ``ECAPA_TDNN``.
    encoder : str
        An encoder of ``hparams/encoders/`` or the path of such a YAML file.
    encoder_source : str or Path
        Folder or hub id of its model.
    encoder_layers : list of int
        Its layers. Default: all.
    sample_rate : int
        Of the audio that the script reads, in Hz.

    Attributes
    ----------
    trained : FrameModel
        What is trained, and goes into checkpoints.

    Raises
    ------
    InputError
        If there is no such encoder or layer, it has no frames, or takes
        another sample rate.

    Example
    -------
    >>> from functools import partial
    >>> from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    >>> small = {"channels": [8, 8, 8, 8, 24], "lin_neurons": 4}
    >>> small |= {"res2net_scale": 2, "se_channels": 4}
    >>> model = FrameEmbedding(partial(ECAPA_TDNN, **small), "mini").eval()
    >>> model(torch.randn(2, 16000), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 1, 4])
    """

    def __init__(
        self,
        model,
        encoder,
        encoder_source=None,
        encoder_layers=None,
        sample_rate=16000,
    ):
        super().__init__()
        self.encoder = load_encoder(encoder, encoder_source)
        check_rate(self.encoder, sample_rate)
        if encoder_layers is None:
            encoder_layers = list(range(self.encoder.n_layers))
        self.layers = choose_layers(self.encoder, encoder_layers)
        (frames,) = self.encoder.frames(torch.zeros(1, sample_rate))
        self.trained = FrameModel(
            len(self.layers), model(input_size=frames.shape[-1])
        )

    def forward(self, wavs, lengths=None):
        """Embeddings of a batch.

        Arguments
        ---------
        wavs, lengths : torch.Tensor
            As of :class:`~speechbrain_ext.inference.stock.StockEmbedding`.

        Returns
        -------
        torch.Tensor
            Shape [B, 1, D].
        """
        if lengths is None:
            lengths = marked_lengths(wavs)
        frames = self.encoder.frames(wavs, lengths)
        return self.trained([one[self.layers] for one in frames])
