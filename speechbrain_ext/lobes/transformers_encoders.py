"""Speech encoders of the transformers library, pooled over time."""

import contextlib
import math
from itertools import islice

import torch
import transformers
from packaging import version
from safetensors import SafetensorError
from transformers.utils import logging

from speechbrain.utils.logger import get_logger
from speechbrain_ext.lobes.masked_norm import mask_group_norms, valid_frames
from speechbrain_ext.lobes.model_files import find_model
from speechbrain_ext.lobes.pooled_encoder import PooledEncoder
from speechbrain_ext.lobes.pooling import POOLINGS, join_windows, pool_frames
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.options import check_options, one_of

# What transformers raises for files that do not fit together.
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)

# Models on waveforms whose frames do not see padding under an attention mask
# if their convolutions are normalised over channels ("layer"), nor if the first
# is normalised over time ("group") by a norm that knows where utterances end.
_MASKABLE = {"wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"}

# Windows of a spectrogram model that are encoded at a time.
_WINDOWS = 16


def _can_mask(config):
    return (
        config.model_type in _MASKABLE
        and config.feat_extract_norm in ("layer", "group")
        # Its shift makes the zeros after an utterance's end non-zero, just
        # before the convolution that looks at them.
        and not getattr(config, "conv_pos_batch_norm", False)
    )


def _n_frames(config, n_samples, n_layers=None):
    """Frames that the first convolutions of a wav2vec 2.0 model make."""
    layers = zip(config.conv_kernel, config.conv_stride)
    for kernel, stride in islice(layers, n_layers):
        n_samples = (n_samples - kernel) // stride + 1
    return n_samples


def _receptive_field(config):
    """Samples that the first frame is made of (400 in the base models)."""
    n_samples, layers = 1, list(zip(config.conv_kernel, config.conv_stride))
    for kernel, stride in reversed(layers):
        n_samples = (n_samples - 1) * stride + kernel
    return n_samples


@contextlib.contextmanager
def _quiet():
    """Without the libraries' load reports: weights are checked here."""
    # It warns that a model is frozen.
    wrapper = get_logger("speechbrain.integrations.huggingface.huggingface")
    level = wrapper.logger.level
    wrapper.logger.setLevel("ERROR")
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        wrapper.logger.setLevel(level)
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _load(source, folder):
    """Feature extractor and encoder of a model folder, in float32."""
    new = version.parse(transformers.__version__) >= version.parse("4.56")
    dtype = {"dtype" if new else "torch_dtype": torch.float32}
    try:
        with _quiet():
            auto = transformers.AutoFeatureExtractor
            # It would ask whether to run the code of a model that has some.
            extractor = auto.from_pretrained(folder, trust_remote_code=False)
            model, loading = transformers.AutoModel.from_pretrained(
                folder,
                output_loading_info=True,
                trust_remote_code=False,
                **dtype,
            )
    except _LOAD_ERRORS as error:
        raise InputError(f"Cannot load {source}: {error}")
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    # Weights that the files lack would be random. The vector that masks
    # frames in training is often left out, and is not used.
    ours = {id(parameter) for parameter in encoder.parameters()}
    missing = [
        name
        for name, parameter in model.named_parameters()
        if id(parameter) in ours
        and name in loading["missing_keys"]
        and "masked_spec_embed" not in name
    ]
    if missing:
        raise InputError(
            f"{source} lacks {len(missing)} weights of its encoder, such as "
            f"{missing[0]}"
        )
    return extractor, encoder


class TransformersEncoder(PooledEncoder):
    """Any speech encoder that ``transformers.AutoModel`` loads.

    Of an encoder-decoder model the encoder is taken. The layers are its
    hidden states: 0 is the input to the first transformer layer, -1 the
    output of the last.

    Models on waveforms (wav2vec 2.0, HuBERT, WavLM, Moonshine and others with
    a ``Wav2Vec2FeatureExtractor``) run in groups of equal length, without
    padding or mask; wav2vec 2.0, HuBERT, WavLM and UniSpeech in padded batches
    with a mask, which is exact. Those with a norm over time (the base models)
    do so on a GPU only: on a CPU one utterance at a time is faster. Clips
    shorter than the receptive field (400 samples in the base models) are padded
    with zeros to it; where it is not in the configuration, clips under 0.1 s to
    0.1 s.

    Whisper's encoder takes windows of a fixed length, given by its table of
    positions, so a model folder with a shorter table is faster on short
    clips. Longer audio is cut in windows. The frames of all windows are
    pooled, without those after the end of the utterance.

    Other models on spectrograms run one utterance at a time.

    Arguments
    ---------
    source : str
        Folder or hub id.
    revision : str
        Branch, tag or commit of a hub id.
    pooling : str
        ``mean``, ``mean_std`` or ``max``, see
        :func:`~speechbrain_ext.lobes.pooling.pool_frames`.
    parameters : dict
        Of a subclass, see :class:`PooledEncoder`.

    Raises
    ------
    InputError
        If there is no such pooling, or the model is not found, cannot be
        loaded or is not a speech encoder.
    """

    def __init__(self, source, revision=None, pooling="mean", parameters=()):
        check_options({"pooling": pooling}, {"pooling": one_of(*POOLINGS)})
        model = find_model(source, revision)
        extractor, network = _load(source, model.folder)
        config, rate = network.config, extractor.sampling_rate
        waveform = isinstance(extractor, transformers.Wav2Vec2FeatureExtractor)
        if not waveform and extractor.model_input_names[0] != "input_features":
            raise InputError(
                f"{source} is not a speech encoder that is known here: it "
                f"takes {type(extractor).__name__}"
            )
        least = rate // 10
        if waveform and hasattr(config, "conv_kernel"):
            least = _receptive_field(config)
        super().__init__(rate, parameters, model, least)
        self.pooling = self.identity["pooling"] = pooling
        self.network, self.config = network, config
        self.extractor, self.waveform = extractor, waveform
        self.normalises = waveform and extractor.do_normalize
        self.handles_padding = not waveform or _can_mask(config)
        if waveform and self.handles_padding:
            mask_group_norms(network)
            self.pads_on_cpu = config.feat_extract_norm != "group"
        self.windowed = hasattr(config, "max_source_positions") and isinstance(
            extractor, transformers.WhisperFeatureExtractor
        )

    def normalise(self, wav):
        """Zero mean and unit variance, where the model was trained so."""
        if not self.normalises:
            return wav
        # As the feature extractors do it.
        std, mean = torch.std_mean(wav, correction=0)
        return (wav - mean) / torch.sqrt(std**2 + 1e-7)

    def encode(self, wavs, lengths):
        """Pooled hidden states, shape [B, n_layers, dim]."""
        pooled, weights = [], []
        for rows, hidden, counts in self._parts(wavs, lengths):
            pooled.append(pool_frames(hidden, counts, self.pooling))
            if self.windowed:
                weight = wavs.new_zeros(len(wavs), len(rows))
                weight[rows, range(len(rows))] = wavs.new_tensor(counts)
                weights.append(weight)
        if self.windowed:
            return join_windows(pooled, weights, self.pooling)
        return torch.cat(pooled)

    def encode_frames(self, wavs, lengths):
        """Hidden states of each utterance, [n_layers, frames, dim] each."""
        found = [[] for _ in lengths]
        for rows, hidden, counts in self._parts(wavs, lengths):
            for i, row in enumerate(rows):
                end = None if counts is None else counts[i]
                part = torch.stack([frames[i, :end] for frames in hidden])
                found[row].append(part)
        return [torch.cat(parts, dim=1) for parts in found]

    def _parts(self, wavs, lengths):
        """What is encoded at a time.

        Row of the batch of each encoded utterance or window; the hidden
        states, [those, frames, dim] each; how many frames are no padding,
        None: all.
        """
        if self.windowed:
            yield from self._windows(wavs, lengths)
        elif not self.waveform:
            yield from self._spectrograms(wavs, lengths)
        elif len(set(lengths)) == 1:  # nothing is padded
            yield range(len(wavs)), self.hidden_states(wavs), None
        else:
            ends = torch.tensor(lengths, device=wavs.device)[:, None]
            mask = torch.arange(wavs.shape[1], device=wavs.device) < ends
            first = [_n_frames(self.config, length, 1) for length in lengths]
            with valid_frames(first):
                hidden = self.hidden_states(wavs, attention_mask=mask.long())
            counts = [_n_frames(self.config, length) for length in lengths]
            yield range(len(wavs)), hidden, counts

    def hidden_states(self, inputs, **kwargs):
        """Hidden states of the network: a tensor [B, frames, dim] each."""
        return self.network(
            inputs, output_hidden_states=True, return_dict=True, **kwargs
        ).hidden_states

    def _spectrogram(self, wav, **kwargs):
        # One utterance per call: the extractors clamp the spectrogram relative
        # to the maximum of all they are given.
        return self.extractor(
            wav.cpu().numpy(),
            sampling_rate=self.sample_rate,
            return_tensors="pt",
            **kwargs,
        ).to(wav.device)

    def _windows(self, wavs, lengths):
        # Whisper's second convolution halves the frames of the spectrogram.
        per_frame = 2 * self.extractor.hop_length
        size = self.config.max_source_positions * per_frame
        fixed = {"padding": "max_length", "max_length": size}
        windows = [
            (row, window)
            for row, length in enumerate(lengths)
            for window in wavs[row, :length].split(size)
        ]
        for start in range(0, len(windows), _WINDOWS):
            rows, part = zip(*windows[start : start + _WINDOWS])
            spectrograms = [
                self._spectrogram(window, **fixed).input_features
                for window in part
            ]
            hidden = self.hidden_states(torch.cat(spectrograms))
            counts = [math.ceil(len(window) / per_frame) for window in part]
            yield list(rows), hidden, counts

    def _spectrograms(self, wavs, lengths):
        for row, (wav, length) in enumerate(zip(wavs, lengths)):
            inputs = dict(self._spectrogram(wav[:length]))
            mask = inputs.get("attention_mask")
            hidden = self.hidden_states(inputs.pop("input_features"), **inputs)
            counts = None
            if mask is not None and mask.shape[1] == hidden[0].shape[1]:
                counts = mask.sum(dim=1)
            yield [row], hidden, counts


class WrappedEncoder(TransformersEncoder):
    """wav2vec 2.0, HuBERT or WavLM through SpeechBrain's own wrapper.

    Otherwise as :class:`TransformersEncoder`.

    Arguments
    ---------
    wrapper : type
        A class of ``speechbrain.integrations.huggingface`` that is called as
        its ``Wav2Vec2`` is.
    source : str
        Folder or hub id.
    revision : str
        Branch, tag or commit of a hub id.
    pooling : str
        As of that.

    Raises
    ------
    InputError
        If there is no such pooling, or the model is not found, cannot be
        loaded or is of another family.
    """

    def __init__(self, wrapper, source, revision=None, pooling="mean"):
        name = f"{wrapper.__module__}.{wrapper.__name__}"
        # The wrapper does not say when weights are missing: loaded twice.
        super().__init__(source, revision, pooling, {"wrapper": name})
        if not hasattr(self.config, "conv_kernel"):
            raise InputError(
                f"{source} is a {self.config.model_type} model, not one of the "
                "wav2vec 2.0 family: use --encoder hf_encoder"
            )
        self.network = None
        folder = str(self.model_files.folder)
        with _quiet():
            network = wrapper(
                source=folder,
                save_path=folder,
                freeze=True,
                output_all_hiddens=True,
            )
        # It would normalise over the whole batch and its padding.
        network.normalize_wav = False
        self.network = network.float()
        if self.handles_padding:
            mask_group_norms(network)

    def hidden_states(self, inputs, attention_mask=None):
        """Hidden states of the wrapper, shape [layers, B, frames, dim]."""
        if attention_mask is None:
            return self.network(inputs)
        return self.network(inputs, attention_mask.sum(1) / inputs.shape[1])
