"""Speaker encoders in ONNX files, on Kaldi's filter banks."""

import torch
from torchaudio.compliance import kaldi

from speechbrain_ext.lobes.model_files import find_model
from speechbrain_ext.lobes.pooled_encoder import PooledEncoder
from speechbrain_ext.utils.errors import InputError


def _open_session(path):
    """The model, on the CPU."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "An ONNX model needs onnxruntime, which is not installed: call "
            "pip install onnxruntime"
        )
    try:
        return onnxruntime.InferenceSession(
            path, providers=["CPUExecutionProvider"]
        )
    # Its exceptions have no common base, and tell damage and version apart.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be loaded as an ONNX model: {reason}")


class OnnxEncoder(PooledEncoder):
    """The embedding of a speaker model in an ONNX file, as one layer.

    The model takes filter banks [B, frames, n_mels], frames of 25 ms every
    10 ms without dither as Kaldi computes them, and gives [B, D]; the defaults
    are those of 3D-Speaker's models. It runs on the CPU, an utterance at a
    time.

    Arguments
    ---------
    source : str
        Folder or hub id.
    revision : str
        Branch, tag or commit of a hub id.
    file : str
        Name of the ONNX file in it, or a pattern that only that file fits.
    sample_rate : int
        In Hz.
    n_mels : int
        Bands.
    scale : float
        What waveforms in [-1, 1] are multiplied by: 32768 for models that were
        trained on 16-bit integers.
    window : str
        ``povey``, Kaldi's own, ``hamming``, ``hanning``, ...
    subtract_mean : bool
        Whether each band's mean over time is subtracted.
    min_seconds : float
        Shorter utterances are padded with zeros at their end.

    Raises
    ------
    InputError
        If onnxruntime is not installed, there is no such file or several, or
        the model takes something else.
    """

    def __init__(
        self,
        source,
        revision=None,
        file="*.onnx",
        sample_rate=16000,
        n_mels=80,
        scale=1.0,
        window="povey",
        subtract_mean=True,
        min_seconds=1.0,
    ):
        files = find_model(source, revision, {f"model ({file})": [[file]]})
        if len(files.files) > 1:
            raise InputError(
                f"{source} has several models, {', '.join(files.files)}: say "
                "which one at the key 'file' of the encoder's YAML file"
            )
        super().__init__(
            sample_rate,
            parameters={
                "sample_rate": sample_rate,
                "n_mels": n_mels,
                "scale": scale,
                "window": window,
                "subtract_mean": subtract_mean,
                "min_seconds": min_seconds,
            },
            model=files,
            min_samples=round(min_seconds * sample_rate),
        )
        self.path = str(files.folder / files.files[0])
        self.session = _open_session(self.path)
        shapes = [one.shape for one in self.session.get_inputs()]
        sizes = shapes[0] if len(shapes) == 1 else ()
        # A size that is not fixed has a name, or none.
        if len(sizes) != 3 or sizes[2] != n_mels and isinstance(sizes[2], int):
            raise InputError(
                f"{self.path} takes inputs of shape {shapes}: expected one, "
                f"[B, frames, {n_mels}]"
            )
        self.scale, self.subtract_mean = scale, subtract_mean
        self.options = {
            "sample_frequency": float(sample_rate),
            "num_mel_bins": n_mels,
            "window_type": window,
            "dither": 0.0,
        }

    def encode(self, wavs, lengths):
        """Embeddings of utterances of equal length, shape [B, 1, dim]."""
        name = self.session.get_inputs()[0].name
        embeddings = []
        for wav in wavs.cpu():
            bands = kaldi.fbank(self.scale * wav[None], **self.options)
            if self.subtract_mean:
                bands = bands - bands.mean(dim=0)
            try:
                found = self.session.run(None, {name: bands[None].numpy()})[0]
            # Its exceptions have no common base. A batch or a number of frames
            # that is fixed ends here, too.
            except Exception as error:
                reason = " ".join(str(error).split())
                raise InputError(
                    f"{self.path} cannot take filter banks of shape "
                    f"{[1, *bands.shape]}: {reason}"
                )
            embeddings.append(torch.from_numpy(found).reshape(1, -1))
        return torch.stack(embeddings).to(wavs.device)
