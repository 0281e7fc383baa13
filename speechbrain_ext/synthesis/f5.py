"""Voice cloning by F5-TTS, from the package `f5-tts`.

Paper: Chen et al., "F5-TTS: A fairytaler that fakes fluent and faithful speech
with flow matching", arXiv 2410.06885. The weights, which the package fetches
from the Hugging Face hub when they are first needed, are under CC-BY-NC.
"""

import atexit
import contextlib
import functools
import io
from pathlib import Path

import numpy as np
import soundfile
import torch

from speechbrain_ext.dataio.audio import audio_info
from speechbrain_ext.synthesis.base import package_version
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import digest, file_digest

# The package cuts longer references, and their text would no longer fit.
MAX_REFERENCE = 12


class F5Synthesizer:
    """Speaks like a reference recording, reproducibly.

    The model is loaded once per process, at the first clip, and a reference is
    prepared once for all its cells. The noise that a clip is made from is
    seeded by its text, its reference and ``seed``: a clip is the same alone,
    after others and in another shard. (Another kind of device or another
    version of torch changes its last bits, or the noise.)

    One text is rendered at a time. The package renders the parts of a text in
    threads that share one random generator, and has no batches; padding texts
    to one length would make a clip depend on its neighbours. Use one shard per
    GPU instead, see :func:`speechbrain_ext.synthesis.grid.render_cells`.

    Arguments
    ---------
    model : str
        Name of a configuration of the package.
    ckpt_file, vocab_file : str
        Files to take in place of the model's from the hub.
    vocoder_folder : str
        Folder with Vocos' ``config.yaml`` and ``pytorch_model.bin``, likewise.
    device : str or None
        As in "cuda:1"; None takes a GPU if there is one.
    seed : int
        Another seed gives other renderings of the same cells.
    nfe_step : int
        Steps of the flow: 32 as published, 16 in half the time.
    cfg_strength : float
        Weight of the classifier-free guidance.
    speed : float
        Above 1, faster than the reference.

    Raises
    ------
    InputError
        If `f5-tts` is not installed, or a file is missing.

    Example
    -------
    >>> import importlib.util, pytest
    >>> if importlib.util.find_spec("f5_tts") is None:
    ...     pytest.skip("needs f5-tts")
    >>> F5Synthesizer(speed=0.9).settings["speed"]
    0.9
    """

    loads_model = True

    def __init__(
        self,
        model="F5TTS_v1_Base",
        ckpt_file="",
        vocab_file="",
        vocoder_folder="",
        device=None,
        seed=1986,
        nfe_step=32,
        cfg_strength=2.0,
        speed=1.0,
    ):
        version = package_version("f5-tts", "paper")
        self.model = model
        self.files = {
            "ckpt_file": str(ckpt_file or ""),
            "vocab_file": str(vocab_file or ""),
            "vocoder_local_path": str(vocoder_folder or "") or None,
        }
        vocoder = vocoder_folder and Path(vocoder_folder, "pytorch_model.bin")
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.seed = seed
        self.options = {
            "nfe_step": nfe_step,
            "cfg_strength": cfg_strength,
            "speed": speed,
        }
        self.settings = {
            "backend": "f5-tts",
            "f5-tts": version,
            "model": model,
            "ckpt_file": _digest(ckpt_file),
            "vocab_file": _digest(vocab_file),
            "vocoder": _digest(vocoder),
            "device": torch.device(self.device).type,
            "synthesis_seed": seed,
            **self.options,
        }
        self._api = None

    def __getstate__(self):
        return {**self.__dict__, "_api": None}

    def voices(self):
        """Nothing: a cloned voice comes with its cell, as ReferenceVoice.

        Returns
        -------
        list
        """
        return []

    def synthesize(self, text, voice):
        """Speaks a text like a reference.

        Arguments
        ---------
        text : str
            A sentence. Long texts are not divided: beyond about 20 seconds
            with the reference, F5-TTS loses its way.
        voice : ReferenceVoice
            At most 12 seconds, with the text that is said there.

        Returns
        -------
        samples : numpy.ndarray
            Float32 [time] in [-1, 1].
        rate : int
            24000.

        Raises
        ------
        InputError
            If the reference cannot be used, or the weights cannot be loaded.
        """
        if not text.strip():
            raise InputError(f"F5-TTS says nothing for the text {text!r}")
        device = torch.device(self.device)
        # Keeps cuDNN from choosing, and leaves torch as it was.
        with (
            contextlib.redirect_stdout(io.StringIO()),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.backends.cudnn.flags(enabled=True, deterministic=True),
        ):
            from f5_tts.infer.utils_infer import infer_batch_process

            api = self._load()
            audio, reference_text = _read_reference(voice)
            # After loading, which draws random numbers too.
            key = digest([text, voice.ID, self.seed])
            torch.manual_seed(int(key, 16) % 2**63)
            samples, rate, _ = next(
                infer_batch_process(
                    audio,
                    reference_text,
                    [text],
                    api.ema_model,
                    api.vocoder,
                    mel_spec_type=api.mel_spec_type,
                    progress=None,
                    device=self.device,
                    **self.options,
                )
            )
        samples = np.asarray(samples, dtype=np.float32)
        return samples / max(1.0, np.abs(samples).max()), rate

    def _load(self):
        """The package's model, loaded once per process."""
        if self._api is None:
            from f5_tts.api import F5TTS

            try:
                self._api = F5TTS(self.model, device=self.device, **self.files)
            except OSError as error:
                raise InputError(
                    f"The weights of {self.model} or its vocoder could not "
                    f"be loaded ({error}): without a network, give ckpt_file "
                    "and vocoder_folder"
                )
        return self._api


def _digest(path):
    """Digest of a file in place of the hub's, if one is given."""
    return file_digest(path) if path else ""


@functools.lru_cache(maxsize=1)  # all cells of a reference come together
def _read_reference(voice):
    """((audio [channels, time], rate), text) of a reference, without pauses."""
    from f5_tts.infer.utils_infer import preprocess_ref_audio_text

    try:
        duration = audio_info(voice.wav).duration
    except InputError as error:
        raise InputError(f"The reference {voice.ID!r} cannot be read: {error}")
    if duration > MAX_REFERENCE:
        raise InputError(
            f"The reference {voice.ID!r} lasts {duration:.1f} seconds: F5-TTS "
            f"takes up to {MAX_REFERENCE}"
        )
    if not voice.text.strip():
        raise InputError(
            f"The reference {voice.ID!r} has no text, which F5-TTS needs"
        )
    path, text = preprocess_ref_audio_text(
        str(voice.wav), voice.text, show_info=lambda _: None
    )
    # The package may want its temporary file again, but never deletes it.
    atexit.register(Path(path).unlink, missing_ok=True)
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return (torch.from_numpy(samples.T.copy()), rate), text
