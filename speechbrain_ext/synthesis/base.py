"""What a speech synthesiser is to the rest of the package."""

from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker: what stays fixed while the sentences change.

    Speaking rate is no part of a voice. It is the same for all voices of a
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

    def as_dict(self):
        """The fields as a plain dictionary."""
        return asdict(self)


@runtime_checkable
class Synthesizer(Protocol):
    """The interface of a backend; any object with these members will do.

    Rendering has to be a pure function of text and voice: a clip may not
    depend on the clips rendered before it, or on the process it is rendered
    in. Grids are rendered by several processes, so a backend has to survive
    pickling; whatever is large or tied to a process is best loaded on the
    first call of `synthesize`.

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
            Samples a second.
        """
