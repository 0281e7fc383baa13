"""What a speech synthesiser is to the rest of the package."""

import importlib.metadata
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from speechbrain_ext.utils.errors import InputError


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker: what stays fixed while the sentences change.

    Speaking rate is not part of a voice. It is the same for all voices of a
    backend, so that tempo does not tell speakers apart (and could be a factor
    of its own).

    Arguments
    ---------
    ID : str
        Name of the voice in manifests and file names, without "/".
    variant : str
        The backend's name of the timbre. Voices that share it sound related,
        so they are kept in one split.
    accent : str
        The backend's name of the accent or language.
    pitch : int
        0 to 99, where 50 leaves the variant's own pitch as it is.
    range : int
        Range of the intonation, 0 (monotone) to 99, 50 is neutral.
    gender : str
        "female", "male" or "" if unknown.

    Example
    -------
    >>> Voice("f2_en-us", "f2", "en-us", gender="female").pitch
    50
    """

    ID: str
    variant: str
    accent: str
    pitch: int = 50
    range: int = 50
    gender: str = ""


@dataclass(frozen=True)
class ReferenceVoice:
    """A voice to clone, given by one recording of it.

    Arguments
    ---------
    ID : str
        Name of the recording, unique among the references of a grid.
    wav : str
        Path of the recording.
    text : str
        What is said in it.
    gender : str
        "female", "male" or "" if unknown.

    Example
    -------
    >>> voice = ReferenceVoice("61_70968_000005", "61.wav", "Give heed!")
    >>> voice.text
    'Give heed!'
    """

    ID: str
    wav: str
    text: str
    gender: str = ""


@runtime_checkable
class Synthesizer(Protocol):
    """The interface of a backend; any object with these members will do.

    Rendering has to be a pure function of text and voice: a clip may not
    depend on the clips rendered before it, or on the process it is rendered
    in. Grids are rendered by several processes, so a backend has to survive
    pickling; whatever is large or tied to a process is best loaded on the
    first call of `synthesize`, and left out of the pickle. All cells of a
    voice are rendered one after another, so what was prepared for the voice
    of the last call is worth keeping.

    A backend that runs a neural network also has ``loads_model = True``: it
    is rendered in one process unless more are asked for, and these start
    afresh, because a fork of a process that uses CUDA or threads can hang.

    Example
    -------
    >>> import numpy as np
    >>> class Sine:
    ...     settings = {"backend": "sine"}
    ...
    ...     def voices(self):
    ...         return [Voice("low", "low", "none")]
    ...
    ...     def synthesize(self, text, voice):
    ...         time = np.arange(1600 * len(text)) / 16000
    ...         return np.sin(700 * time).astype("float32"), 16000
    >>> isinstance(Sine(), Synthesizer)
    True
    """

    settings: dict
    """Whatever changes the sound, versions included, as JSON values."""

    def voices(self):
        """The list of :class:`Voice` to choose from."""

    def synthesize(self, text, voice):
        """Speaks a text.

        Arguments
        ---------
        text : str
            What to say.
        voice : Voice
            Who says it.

        Returns
        -------
        samples : numpy.ndarray
            Float32 [time] in [-1, 1].
        rate : int
            Samples per second.
        """


def package_version(package, extra):
    """The version of a backend's package.

    Arguments
    ---------
    package : str
        Its name for pip.
    extra : str
        The extra of this package that installs it.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If it is not installed.

    Example
    -------
    >>> package_version("numpy", "demo").count(".")
    2
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"The package {package} is not installed: install the extra "
            f"`{extra}`, as in pip install "
            f"'speechbrain-interventional[{extra}]'"
        )
