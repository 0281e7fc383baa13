"""Kokoro-82M through the package `kokoro-onnx`: the example of a backend.

The model and its voices, under Apache-2.0, are two files that users fetch.
"""

import logging
from pathlib import Path

import numpy as np

from speechbrain_ext.synthesis.base import Voice, package_version
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import file_digest

# The name of a voice begins with its accent and its gender: af_heart.
ACCENTS = {"a": "en-us", "b": "en-gb"}
GENDERS = {"f": "female", "m": "male"}


class KokoroSynthesizer:
    """Speaks with Kokoro, reproducibly.

    Usual exports of the model draw the noise of its vocoder inside the graph,
    and onnxruntime can seed it only when a model is loaded. So the first clip
    is rendered twice; if the two differ, the model is loaded anew for every
    clip, and otherwise once per process.

    Arguments
    ---------
    model_path : str or Path
        ``kokoro-v1.0.onnx`` or another export.
    voices_path : str or Path
        ``voices-v1.0.bin``.
    speed : float
        0.5 to 2, the same for all voices.
    seed : int
        Of the noise.

    Raises
    ------
    InputError
        If `kokoro-onnx` is not installed, or a file is missing.

    Example
    -------
    >>> import importlib.util, pytest
    >>> if importlib.util.find_spec("kokoro_onnx") is None:
    ...     pytest.skip("needs kokoro-onnx")
    >>> KokoroSynthesizer("none.onnx", "none.bin")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: There is no file none.onnx: ...
    """

    loads_model = True

    def __init__(self, model_path, voices_path, speed=1.0, seed=1986):
        version = package_version("kokoro-onnx", "kokoro")
        for path in (model_path, voices_path):
            if not Path(path).is_file():
                raise InputError(
                    f"There is no file {path}: kokoro-v1.0.onnx and "
                    "voices-v1.0.bin are among the releases of "
                    "github.com/thewh1teagle/kokoro-onnx"
                )
        self.paths = str(model_path), str(voices_path)
        self.speed, self.seed = speed, seed
        self.settings = {
            "backend": "kokoro-onnx",
            "kokoro-onnx": version,
            "onnxruntime": package_version("onnxruntime", "kokoro"),
            "model": file_digest(model_path),
            "voices_file": file_digest(voices_path),
            "speed": speed,
            "synthesis_seed": seed,
        }
        self._model = self._is_random = None

    def __getstate__(self):
        return {**self.__dict__, "_model": None}

    def voices(self):
        """The English voices of the file.

        Returns
        -------
        list of Voice
        """
        with np.load(self.paths[1]) as file:
            return [
                Voice(name, name, ACCENTS[name[0]], gender=GENDERS[name[1]])
                for name in sorted(file)
                if name[0] in ACCENTS
            ]

    def synthesize(self, text, voice):
        """Speaks a text.

        Arguments
        ---------
        text : str
            English text.
        voice : Voice
            One of the file, with any accent of espeak-ng.

        Returns
        -------
        samples : numpy.ndarray
            Float32 [time] in [-1, 1].
        rate : int
            24000.
        """
        if self._model is None or self._is_random:
            self._model = self._load()
        samples, rate = self._create(text, voice)
        if self._is_random is None:
            again, _ = self._create(text, voice)
            self._is_random = not np.array_equal(samples, again)
        return samples / max(1.0, np.abs(samples).max()), rate

    def _load(self):
        import kokoro_onnx
        import onnxruntime

        # Its warnings of merged words would break the progress bar.
        logging.getLogger("phonemizer").setLevel(logging.ERROR)
        onnxruntime.set_seed(self.seed)
        return kokoro_onnx.Kokoro(*self.paths)

    def _create(self, text, voice):
        return self._model.create(
            text, voice.variant, speed=self.speed, lang=voice.accent
        )
