"""The embedded synthesiser: espeak-ng from the package `espeakng-loader`.

espeak-ng is a formant synthesiser under GPL-3, and stays an optional
dependency. Its library and its voices come in the wheel, so nothing has to be
installed on the system.

The voices in ``data/espeak_voices.csv`` were chosen by measurement, see
``data/README.md``.
"""

import ctypes
import os
from pathlib import Path

import numpy as np

from speechbrain_ext.synthesis.base import Voice, package_version
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv

VOICES_CSV = Path(__file__).parent / "data" / "espeak_voices.csv"

# From espeak-ng's speak_lib.h.
AUDIO_OUTPUT_SYNCHRONOUS = 2  # like RETRIEVAL, in the thread of the caller
INITIALIZE_DONT_EXIT = 0x8000
PARAMETER_RATE, PARAMETER_PITCH, PARAMETER_RANGE = 1, 3, 4
RATES = (80, 450)  # words per minute; lower ones it takes as 80
POSITION_CHARACTER = 1
CHARS_UTF8 = 1
MAX_PATH = 159  # of the folder of its data; longer ones it does not take

SYNTH_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class EspeakSynthesizer:
    """Speaks with espeak-ng, reproducibly.

    By itself espeak-ng seeds its noise with the time of day, and phases,
    filters and echoes carry over from one clip to the next, even if it is
    terminated and initialised in between. Here the noise is seeded, and the
    library is unloaded after every clip (0.5 ms): the same text and voice
    give the same samples alone, after other clips and in another process.

    Arguments
    ---------
    rate : int
        Speaking rate in words per minute, 80 to 450, the same for all voices.

    Raises
    ------
    InputError
        If `espeakng-loader` is not installed or its path is too long, or it
        has no such rate.

    Example
    -------
    >>> import pytest
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> synthesizer = EspeakSynthesizer()
    >>> samples, rate = synthesizer.synthesize(
    ...     "Hello there.", Voice("f2", "f2", "en-us")
    ... )
    >>> rate, samples.dtype, bool(0.5 < len(samples) / rate < 1.5)
    (22050, dtype('float32'), True)
    """

    def __init__(self, rate=175):
        version = package_version("espeakng-loader", "demo")
        import espeakng_loader

        if not (isinstance(rate, int) and RATES[0] <= rate <= RATES[1]):
            raise InputError(
                f"espeak-ng has no speaking rate {rate!r}: choose a whole "
                f"number of words per minute from {RATES[0]} to {RATES[1]}"
            )
        self.rate = rate
        self.library_path = espeakng_loader.get_library_path()
        self.data_path = espeakng_loader.get_data_path()
        if len(os.fsencode(self.data_path)) > MAX_PATH:
            raise InputError(
                f"espeak-ng takes a path of its data of at most {MAX_PATH} "
                f"bytes, got {self.data_path}: make the virtual environment "
                "in a folder with a shorter path"
            )
        self.settings = {
            "backend": "espeak-ng",
            "espeakng-loader": version,
            "rate": rate,
        }

    def at_rate(self, rate):
        """The same synthesiser at another speaking rate.

        Arguments
        ---------
        rate : int
            Words per minute, 80 to 450.

        Returns
        -------
        EspeakSynthesizer

        Raises
        ------
        InputError
            If espeak-ng has no such rate.
        """
        return EspeakSynthesizer(rate)

    def voices(self):
        """The measured voices, most distinct first.

        Returns
        -------
        list of Voice
        """
        return read_voices(VOICES_CSV)

    def synthesize(self, text, voice):
        """Speaks a text.

        Arguments
        ---------
        text : str
            English text.
        voice : Voice
            Any variant of ``espeak-ng-data/voices/!v`` with any accent.

        Returns
        -------
        samples : numpy.ndarray
            Float32 [time] in [-1, 1], without silence around.
        rate : int
            22050.

        Raises
        ------
        InputError
            If espeak-ng has no such voice, or nothing to say.
        """
        # espeak-ng silently falls back to a plain voice here.
        if not Path(self.data_path, "voices/!v", voice.variant).is_file():
            raise InputError(
                f"espeak-ng has no variant {voice.variant!r} "
                f"(voice {voice.ID!r})"
            )
        chunks = []

        @SYNTH_CALLBACK
        def collect(samples, count, events):
            """Keeps the samples of a part of the clip."""
            if samples and count > 0:
                chunks.append(ctypes.string_at(samples, 2 * count))
            return 0

        # Loaded afresh, so that all its variables are initial.
        if _is_loaded(self.library_path):
            raise RuntimeError(
                "espeak-ng is in use by another part of this process, or "
                "cannot be unloaded on this system: it would not render "
                "reproducibly"
            )
        library = ctypes.CDLL(self.library_path)
        try:
            rate = library.espeak_Initialize(
                AUDIO_OUTPUT_SYNCHRONOUS,
                0,
                os.fsencode(self.data_path),
                INITIALIZE_DONT_EXIT,
            )
            if rate <= 0:
                raise RuntimeError(f"espeak-ng did not start: {rate}")
            # Noise comes from two generators: espeak-ng's own, seeded with
            # the time of day by espeak_Initialize, and the C library's, in
            # some voices. (Windows looks only into the library itself.)
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            if hasattr(library, "srand"):
                library.srand(ctypes.c_uint(1))
            library.espeak_SetSynthCallback(collect)
            name = f"{voice.accent}+{voice.variant}"
            if library.espeak_SetVoiceByName(name.encode()) != 0:
                raise InputError(
                    f"espeak-ng has no accent {voice.accent!r} "
                    f"(voice {voice.ID!r})"
                )
            library.espeak_SetParameter(PARAMETER_RATE, self.rate, 0)
            library.espeak_SetParameter(PARAMETER_PITCH, voice.pitch, 0)
            library.espeak_SetParameter(PARAMETER_RANGE, voice.range, 0)
            data = text.encode("utf-8")
            size = ctypes.c_size_t(len(data) + 1)
            library.espeak_Synth(
                data, size, 0, POSITION_CHARACTER, 0, CHARS_UTF8, None, None
            )
            library.espeak_Terminate()
        finally:
            _unload(library)
        samples = np.frombuffer(b"".join(chunks), dtype=np.int16)
        if not samples.any():
            raise InputError(f"espeak-ng says nothing for the text {text!r}")
        return samples.astype(np.float32) / 32768, rate


def _is_loaded(path):
    """Whether this process holds the library (False where one cannot ask)."""
    noload = getattr(os, "RTLD_NOLOAD", None)
    if noload is None:
        return False
    try:
        _unload(ctypes.CDLL(path, mode=noload))
    except OSError:
        return False
    return True


def _unload(library):
    """Closes a handle of ctypes, which never does so by itself."""
    import _ctypes

    getattr(_ctypes, "dlclose", getattr(_ctypes, "FreeLibrary", None))(
        library._handle
    )


def read_voices(path):
    """Reads a table of voices.

    Arguments
    ---------
    path : str or path
        CSV with the columns variant, accent, pitch, range and gender.

    Returns
    -------
    list of Voice
        In the order of the file.

    Example
    -------
    >>> len({voice.ID for voice in read_voices(VOICES_CSV)}) >= 56
    True
    """
    columns = ("variant", "accent", "pitch", "range", "gender")
    rows = read_csv(path)
    return [make_voice(*(row[name] for name in columns)) for row in rows]


def make_voice(variant, accent, pitch=50, range=50, gender=""):
    """A :class:`Voice` with an ID made of its other fields.

    Arguments
    ---------
    variant, accent, pitch, range, gender
        See :class:`Voice`.

    Returns
    -------
    Voice

    Example
    -------
    >>> make_voice("Mr serious", "en-gb-x-rp").ID
    'mr-serious_en-gb-x-rp_p50_r50'
    """
    ID = f"{variant}_{accent}_p{pitch}_r{range}".lower().replace(" ", "-")
    return Voice(ID, variant, accent, int(pitch), int(range), gender)
