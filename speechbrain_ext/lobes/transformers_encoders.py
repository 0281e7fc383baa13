"""Speech encoders of the transformers library, averaged over time."""

import contextlib
import math

import torch
import transformers
from packaging import version
from safetensors import SafetensorError
from transformers.utils import logging

from speechbrain_ext.lobes.encoders import PooledEncoder
from speechbrain_ext.lobes.model_files import find_model
from speechbrain_ext.utils.errors import InputError

# What transformers raises for files that do not fit together.
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)

# Models on waveforms whose frames do not see padding under an attention mask,
# if their convolutions are normalised over channels ("layer"), not over time.
_MASKABLE = {"wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"}

# Windows of a spectrogram model that are encoded at a time.
_WINDOWS = 16


def _can_mask(config):
    return (
        config.model_type in _MASKABLE
        and getattr(config, "feat_extract_norm", None) == "layer"
        # Its shift makes the zeros after an utterance's end non-zero, just
        # before the convolution that looks at them.
        and not getattr(config, "conv_pos_batch_norm", False)
    )


def _n_frames(config, n_samples):
    """Frames that the convolutions of a wav2vec 2.0 model make."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        n_samples = (n_samples - kernel) // stride + 1
    return n_samples


def _receptive_field(config):
    """Samples that the first frame is made of (400 in the base models)."""
    n_samples = 1
    for kernel, stride in zip(
        reversed(config.conv_kernel), reversed(config.conv_stride)
    ):
        n_samples = (n_samples - 1) * stride + kernel
    return n_samples


def _mean(frames, counts=None):
    """Mean of [B, frames, dim] over the first ``counts`` frames of each."""
    if counts is None:
        return frames.mean(dim=1)
    counts = torch.as_tensor(counts, device=frames.device)
    valid = (
        torch.arange(frames.shape[1], device=frames.device) < counts[:, None]
    )
    return (frames * valid[..., None]).sum(dim=1) / counts[:, None]


def _zero_mean_unit_variance(wav):
    """As the feature extractors do it, over one utterance."""
    std, mean = torch.std_mean(wav, correction=0)
    return (wav - mean) / torch.sqrt(std**2 + 1e-7)


@contextlib.contextmanager
def _quiet():
    """Without the library's load report: weights are checked here."""
    verbosity = logging.get_verbosity()
    bar = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _load(source, folder):
    """Feature extractor and encoder of a model folder, in float32."""
    new = version.parse(transformers.__version__) >= version.parse("4.56")
    dtype = {"dtype" if new else "torch_dtype": torch.float32}
    try:
        with _quiet():
            extractor = transformers.AutoFeatureExtractor.from_pretrained(
                folder
            )
            model, loading = transformers.AutoModel.from_pretrained(
                folder, output_loading_info=True, **dtype
            )
    except _LOAD_ERRORS as error:
        raise InputError(f"Cannot load {source}: {error}")
    encoder = model
    if model.config.is_encoder_decoder:
        encoder = model.get_encoder()
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


class WrappedEncoder(PooledEncoder):
    """wav2vec 2.0, HuBERT or WavLM through SpeechBrain's own wrapper.

    The layers are the hidden states: 0 is the input to the first transformer
    layer, -1 the output of the last. Models whose convolutions are normalised
    over channels run in padded batches with a mask, which is exact; the others
    in groups of equal length, without padding or mask. Clips shorter than the
    receptive field (400 samples in the base models) are padded with zeros to
    it.

    Arguments
    ---------
    wrapper : type
        A class of ``speechbrain.integrations.huggingface`` that is called as
        its ``Wav2Vec2`` is.
    source : str
        Folder or hub id.
    revision : str
        Branch, tag or commit of a hub id.

    Raises
    ------
    InputError
        If the model is not found or cannot be loaded.
    """

    def __init__(self, wrapper, source, revision=None):
        model = find_model(source, revision)
        # The wrapper does not say when weights are missing: look first.
        config = _load(source, model.folder)[1].config
        if not hasattr(config, "conv_kernel"):
            raise InputError(
                f"{source} is a {config.model_type} model, not one of the "
                "wav2vec 2.0 family: use --encoder hf_encoder"
            )
        with _quiet():
            network = wrapper(
                source=str(model.folder),
                save_path=str(model.folder),
                freeze=True,
                output_all_hiddens=True,
            )
        config = network.model.config
        super().__init__(
            network.feature_extractor.sampling_rate,
            parameters={"wrapper": f"{wrapper.__module__}.{wrapper.__name__}"},
            model=model,
            min_samples=_receptive_field(config),
        )
        self.handles_padding = _can_mask(config)
        # The wrapper would normalise over the whole batch and its padding.
        self.normalises = network.normalize_wav
        network.normalize_wav = False
        self.network = network.float()
        self.probe()

    def normalise(self, wav):
        """Zero mean and unit variance, where the model was trained so."""
        return _zero_mean_unit_variance(wav) if self.normalises else wav

    def encode(self, wavs, lengths):
        """Means of the hidden states, shape [B, n_layers, dim]."""
        if not self.handles_padding:
            return self.network(wavs).mean(dim=2).transpose(0, 1)
        relative = torch.tensor(lengths, device=wavs.device) / wavs.shape[1]
        config = self.network.model.config
        counts = [_n_frames(config, length) for length in lengths]
        hidden = self.network(wavs, relative)
        return torch.stack([_mean(frames, counts) for frames in hidden], dim=1)


class TransformersEncoder(PooledEncoder):
    """Any speech encoder that ``transformers.AutoModel`` loads.

    Of an encoder-decoder model the encoder is taken. The layers are its
    hidden states: 0 is the input to the first transformer layer, -1 the
    output of the last.

    Models on waveforms (wav2vec 2.0, HuBERT, WavLM, Moonshine and others with
    a ``Wav2Vec2FeatureExtractor``) run as in :class:`WrappedEncoder`; where
    the receptive field is not in the configuration, clips under 0.1 s are
    padded with zeros to 0.1 s.

    Whisper's encoder takes windows of a fixed length, given by its table of
    positions, so a model folder with a shorter table is faster on short
    clips. Longer audio is cut in windows. The frames of all windows are
    averaged, without those after the end of the utterance.

    Other models on spectrograms run one utterance at a time.

    Arguments
    ---------
    source : str
        Folder or hub id.
    revision : str
        Branch, tag or commit of a hub id.

    Raises
    ------
    InputError
        If the model is not found, cannot be loaded or is no speech encoder.
    """

    def __init__(self, source, revision=None):
        model = find_model(source, revision)
        extractor, encoder = _load(source, model.folder)
        config = encoder.config
        waveform = isinstance(extractor, transformers.Wav2Vec2FeatureExtractor)
        if waveform and hasattr(config, "conv_kernel"):
            min_samples = _receptive_field(config)
        else:
            min_samples = extractor.sampling_rate // 10
        super().__init__(
            extractor.sampling_rate, model=model, min_samples=min_samples
        )
        self.extractor, self.encoder = extractor, encoder
        self.normalises = waveform and extractor.do_normalize
        self.masks = waveform and _can_mask(config)
        if waveform:
            self.handles_padding = self.masks
            self.kind = "waveform"
        elif extractor.model_input_names[0] != "input_features":
            raise InputError(
                f"{source} is no speech encoder that is known here: it takes "
                f"{type(extractor).__name__}"
            )
        else:
            windowed = hasattr(config, "max_source_positions") and isinstance(
                extractor, transformers.WhisperFeatureExtractor
            )
            self.handles_padding = True
            self.kind = "windows" if windowed else "spectrogram"
        try:
            self.probe()
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{source} cannot encode half a second: {error}")

    def normalise(self, wav):
        """Zero mean and unit variance, where the model was trained so."""
        return _zero_mean_unit_variance(wav) if self.normalises else wav

    def encode(self, wavs, lengths):
        """Means of the hidden states, shape [B, n_layers, dim]."""
        if self.kind == "waveform":
            return self._encode_waveforms(wavs, lengths)
        if self.kind == "windows":
            return self._encode_windows(wavs, lengths)
        return self._encode_spectrograms(wavs, lengths)

    def _hidden(self, inputs, **kwargs):
        """Hidden states: a tuple of tensors [B, frames, dim]."""
        return self.encoder(
            inputs, output_hidden_states=True, return_dict=True, **kwargs
        ).hidden_states

    def _encode_waveforms(self, wavs, lengths):
        if not self.masks:
            hidden, counts = self._hidden(wavs), None
        else:
            ends = torch.tensor(lengths, device=wavs.device)[:, None]
            mask = torch.arange(wavs.shape[1], device=wavs.device) < ends
            hidden = self._hidden(wavs, attention_mask=mask.long())
            counts = [_n_frames(self.encoder.config, n) for n in lengths]
        return torch.stack([_mean(frames, counts) for frames in hidden], dim=1)

    def _spectrogram(self, wav, **kwargs):
        # One utterance a call: the extractors clamp the spectrogram relative
        # to the maximum of all they are given.
        return self.extractor(
            wav.cpu().numpy(),
            sampling_rate=self.sample_rate,
            return_tensors="pt",
            **kwargs,
        ).to(wav.device)

    def _encode_windows(self, wavs, lengths):
        n_frames = self.encoder.config.max_source_positions
        # Whisper's second convolution halves the frames of the spectrogram.
        per_frame = 2 * self.extractor.hop_length
        windows = [
            (row, window)
            for row, length in enumerate(lengths)
            for window in wavs[row, :length].split(n_frames * per_frame)
        ]
        sums, totals = 0.0, torch.zeros(len(wavs), device=wavs.device)
        for start in range(0, len(windows), _WINDOWS):
            rows, part = zip(*windows[start : start + _WINDOWS])
            counts = [math.ceil(len(window) / per_frame) for window in part]
            spectrograms = [
                self._spectrogram(
                    window,
                    padding="max_length",
                    max_length=n_frames * per_frame,
                ).input_features
                for window in part
            ]
            hidden = self._hidden(torch.cat(spectrograms))
            counts = torch.tensor(counts, device=wavs.device)
            means = torch.stack([_mean(h, counts) for h in hidden], dim=1)
            # Utterance x window: how many frames a window gives to which.
            weight = torch.zeros(len(wavs), len(rows), device=wavs.device)
            weight[list(rows), range(len(rows))] = counts.float()
            sums = sums + torch.einsum("uw,wld->uld", weight, means)
            totals += weight.sum(dim=1)
        return sums / totals[:, None, None]

    def _encode_spectrograms(self, wavs, lengths):
        means = []
        for wav, length in zip(wavs, lengths):
            inputs = dict(self._spectrogram(wav[:length]))
            mask = inputs.get("attention_mask")
            hidden = self._hidden(inputs.pop("input_features"), **inputs)
            counts = None
            if mask is not None and mask.shape[1] == hidden[0].shape[1]:
                counts = mask.sum(dim=1)
            means.append(torch.stack([_mean(h, counts) for h in hidden], dim=1))
        return torch.cat(means)
