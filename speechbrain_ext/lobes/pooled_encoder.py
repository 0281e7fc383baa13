"""Frozen speech encoders with one vector per utterance and layer.

Their vectors depend on nothing but the utterance: not on the other utterances
of the batch, not on its padding and not on the training mode.
"""

import contextlib
import contextvars
import math

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.windows import mean_of_windows, windows

# Windows of long utterances that are encoded at a time: what they take does
# not grow with the utterance.
AT_A_TIME = 8
# Of audio that a CPU encodes at a time. Of more, intermediate results are so
# large that the C library gets fresh memory from the system for each of them:
# up to twice as slow (spectrograms), or no faster (wav2vec 2.0).
CPU_SECONDS = 16.0
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_precision = contextvars.ContextVar("precision", default="fp32")


@contextlib.contextmanager
def encoding_in(precision):
    """Encoders that are called inside take mixed precision, where it is given.

    Arguments
    ---------
    precision : str
        ``fp32``, which all else encodes in, ``bf16`` or ``fp16``: by autocast;
        frames are pooled in float32.
    """
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


class PooledEncoder(torch.nn.Module):
    """Base class: a frozen encoder, pooled over time.

    A subclass implements :meth:`encode`, and says in ``parameters`` what its
    vectors depend on: caches of features are told apart by it. The batch is
    divided in groups of equal length, so that nothing is ever padded, unless
    the subclass sets ``handles_padding`` (on the CPU, also ``pads_on_cpu``:
    where batches do not pay there, it is False). Utterances of less than
    ``min_samples`` samples are padded with zeros at their end to that length;
    those above 30 s are encoded in windows, see
    :mod:`speechbrain_ext.utils.windows`.

    Arguments
    ---------
    sample_rate : int
        Of the waveforms, in Hz.
    parameters : dict
        What determines the output besides class and model, JSON-able.
    model : object
        Files of the pre-trained model, where there are any: whatever has an
        ``identity``, JSON-able.
    min_samples : int
        Shorter utterances are padded to this length.

    Attributes
    ----------
    identity : dict
        Everything that determines the output: class, parameters, and the
        identity of the model. JSON-able, so that it can be the key of a cache.
    n_layers, dim : int
        Shape of what it makes of an utterance; None until it is known.

    Example
    -------
    >>> class Moments(PooledEncoder):
    ...     def encode(self, wavs, lengths):
    ...         return torch.stack(torch.std_mean(wavs, 1), 1).unsqueeze(1)
    >>> encoder = Moments(16000, parameters={})
    >>> encoder(torch.ones(3, 800), torch.tensor([1.0, 0.5, 0.25])).shape
    torch.Size([3, 1, 2])
    """

    handles_padding, pads_on_cpu = False, True

    def __init__(self, sample_rate, parameters, model=None, min_samples=1):
        super().__init__()
        self.sample_rate, self.min_samples = sample_rate, min_samples
        self.n_layers = self.dim = None
        self.model_files = model
        self.identity = {
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "parameters": dict(parameters),
        }
        if model is not None:
            self.identity["model"] = model.identity
        self.eval()

    def encode(self, wavs, lengths):
        """Layers of a batch, pooled over the frames of each utterance.

        Arguments
        ---------
        wavs : torch.Tensor
            float32, shape [B, time]. Of equal length, unless the class
            ``handles_padding``: then zero beyond each utterance's end.
        lengths : list of int
            Samples of each utterance; the largest is ``time``.

        Returns
        -------
        torch.Tensor
            Shape [B, n_layers, dim].
        """
        raise NotImplementedError

    def encode_frames(self, wavs, lengths):
        """Frames of a batch, if it has any; arguments as of :meth:`encode`.

        Returns
        -------
        list of torch.Tensor
            Of each utterance, shape [n_layers, frames, dim], without padding.
        """
        raise InputError(
            f"Encoder '{self.identity.get('name')}' gives one vector per "
            "utterance and no frames: take another"
        )

    def normalise(self, wav):
        """One utterance before it is encoded, shape [time]. Default: as is."""
        return wav

    @torch.no_grad()
    def forward(self, wavs, wav_lens=None):
        """Vectors of a batch of utterances.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, shape [B, time], padded at the end.
        wav_lens : torch.Tensor
            Relative lengths, shape [B]. Default: all full.

        Returns
        -------
        torch.Tensor
            float32, shape [B, n_layers, dim].

        Raises
        ------
        InputError
            If the shape is not that, an utterance has no samples or some that
            are not finite, or the lengths are not relative.
        """
        utterances = unpad(wavs, wav_lens)
        cut = [windows(len(wav), self.sample_rate) for wav in utterances]
        if len(cut) == sum(map(len, cut)):
            return torch.stack(self._encoded(self.encode, utterances))
        pieces = [
            wav[start:stop]
            for wav, spans in zip(utterances, cut)
            for start, stop in spans
        ]
        vectors = [
            vector
            for first in range(0, len(pieces), AT_A_TIME)
            for vector in self._encoded(
                self.encode, pieces[first : first + AT_A_TIME]
            )
        ]
        durations = [len(piece) for piece in pieces]
        counts = [len(spans) for spans in cut]
        return mean_of_windows(torch.stack(vectors), counts, durations)

    @torch.no_grad()
    def frames(self, wavs, wav_lens=None):
        """Frames of a batch of utterances.

        Arguments
        ---------
        wavs, wav_lens : torch.Tensor
            As of :meth:`forward`.

        Returns
        -------
        list of torch.Tensor
            Of each utterance, float32, shape [n_layers, frames, dim], without
            any of its padding.

        Raises
        ------
        InputError
            As :meth:`forward`, and if the encoder has no frames.
        """
        return self._encoded(self.encode_frames, unpad(wavs, wav_lens))

    def _encoded(self, encode, wavs):
        """What ``encode`` makes of each utterance, [time] each: a list."""
        utterances = [self.normalise(wav.float()) for wav in wavs]
        for row, wav in enumerate(utterances):
            if (missing := self.min_samples - len(wav)) > 0:
                utterances[row] = torch.nn.functional.pad(wav, (0, missing))
        device, found = utterances[0].device.type, {}
        cpu = device == "cpu"
        pads = self.handles_padding and (self.pads_on_cpu or not cpu)
        most = CPU_SECONDS * self.sample_rate if cpu else math.inf
        # A caller's own mixed precision would change the vectors by 1 %.
        mixed = PRECISIONS[_precision.get()]
        with torch.autocast(device, mixed, enabled=mixed is not None):
            for rows in similar_rows([*map(len, utterances)], most, pads):
                group = [utterances[row] for row in rows]
                padded = pad_sequence(group, batch_first=True)
                part = encode(padded, [len(wav) for wav in group])
                found.update(zip(rows, [one.float() for one in part]))
        return [found[row] for row in range(len(utterances))]

    def train(self, mode=True):
        """Stay in evaluation mode, also when a parent module is trained."""
        return super().train(False)


def similar_rows(lengths, most, pads=True, at_most=None):
    """Rows in groups of similar length, longest first.

    Arguments
    ---------
    lengths : sequence of float
        Of each row.
    most : float
        A group's number of rows times its longest one, at most, where it has
        more than one row.
    pads : bool
        Whether the rows of a group may differ in length.
    at_most : int
        Rows of a group. Default: any number.

    Yields
    ------
    list of int

    Example
    -------
    >>> list(similar_rows([2, 5, 4, 2, 5], most=10))
    [[1, 4], [2, 0], [3]]
    >>> list(similar_rows([2, 5, 4, 2, 5], most=10, pads=False))
    [[1, 4], [2], [0, 3]]
    """
    group = []
    for row in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        longest = lengths[group[0]] if group else 0
        if group and (
            len(group) == at_most
            or longest * (len(group) + 1) > most
            or not (pads or lengths[row] == longest)
        ):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def unpad(wavs, wav_lens=None):
    """The utterances of a batch without their padding.

    Arguments
    ---------
    wavs, wav_lens : torch.Tensor
        As of :func:`count_samples`.

    Returns
    -------
    list of torch.Tensor
        Shape [time] each.

    Example
    -------
    >>> unpad(torch.zeros(2, 4), torch.tensor([1.0, 0.5]))
    [tensor([0., 0., 0., 0.]), tensor([0., 0.])]
    """
    lengths = count_samples(wavs, wav_lens)
    return [wav[:length] for wav, length in zip(wavs, lengths)]


def count_samples(wavs, wav_lens=None):
    """Samples of each utterance of a batch.

    Arguments
    ---------
    wavs : torch.Tensor
        Waveforms, shape [B, time].
    wav_lens : torch.Tensor
        Relative lengths, shape [B]. Default: all full.

    Returns
    -------
    list of int

    Raises
    ------
    InputError
        If the waveforms are not that or not finite, or the lengths are not
        relative or not one for each utterance.

    Example
    -------
    >>> count_samples(torch.zeros(2, 8), torch.tensor([1.0, 0.5]))
    [8, 4]
    """
    if wavs.dim() != 2 or not len(wavs) or not wavs.is_floating_point():
        raise InputError(
            "An encoder takes waveforms of shape [batch, time], floating-point "
            f"numbers in [-1, 1], got {wavs.dtype} {list(wavs.shape)}"
        )
    batch, time = wavs.shape
    if batch > 100 * time > 0:
        raise InputError(
            f"{batch} utterances of {time} samples: these waveforms are "
            "[time, channels], expected [batch, time]"
        )
    lens = torch.ones(batch) if wav_lens is None else torch.as_tensor(wav_lens)
    lens = lens.detach().cpu().double()
    # Rounding may leave a little more than 1.
    relative = ((lens > 0) & (lens <= 1 + 1e-6)).all()
    if lens.shape != (batch,) or not relative:
        samples = ((lens > 1) & (lens == lens.round())).all()
        hint = "; these look like numbers of samples: divide by the longest"
        raise InputError(
            f"wav_lens is {lens.tolist()}: expected relative lengths, shape "
            f"[{batch}], above 0, at most 1{hint if samples else ''}"
        )
    counts = (lens * time).round().long().clamp(max=time)
    if counts.min() < 1:
        raise InputError("An utterance of the batch has no samples")
    # One number tells whether all are finite, cheaper than one for each.
    if not wavs.sum(dtype=torch.float32).isfinite():
        steps = torch.arange(time, device=wavs.device)
        bad = ~wavs.isfinite() & (steps < counts.to(wavs.device)[:, None])
        if bad.any():
            row = bad.any(dim=1).nonzero()[0].item()
            raise InputError(
                f"Utterance {row} of the batch has samples that are NaN or "
                "infinite"
            )
    return counts.tolist()
