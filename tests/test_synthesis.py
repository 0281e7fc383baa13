"""Voices, sentences, the espeak-ng backend and the rendering of grids."""

import ctypes
import json
import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from helpers import Tones, contents

from speechbrain_ext.synthesis import espeak, sentences
from speechbrain_ext.synthesis.base import ReferenceVoice, Synthesizer, Voice
from speechbrain_ext.synthesis.espeak import (
    VOICES_CSV,
    EspeakSynthesizer,
    make_voice,
    read_voices,
)
from speechbrain_ext.synthesis.grid import (
    check_manifest,
    grid_cells,
    render_cells,
    render_clip,
)
from speechbrain_ext.synthesis.sentences import (
    FUNCTION_KINDS,
    WORDS,
    generate_sentences,
)
from speechbrain_ext.utils.errors import InputError

# Voices whose noise, echo or filters used to carry over from clip to clip.
DELICATE = ["f2", "whisper", "caleb", "Reed", "klatt", "max", "robosoft6"]
TEXT = "Seven yellow lamps hum over the river."


@pytest.fixture
def synthesizer():
    pytest.importorskip("espeakng_loader")
    return EspeakSynthesizer()


def render(backend, voices, texts, folder, num_workers=1):
    """A grid in which every voice says every sentence."""
    cells = grid_cells(voices, texts)
    return render_cells(
        backend, cells, folder, num_workers=num_workers, progress=False
    )


def saying(samples, rate):
    """A backend that says one thing."""
    return SimpleNamespace(synthesize=lambda text, voice: (samples, rate))


def test_sentences_are_unique_and_differ_in_content():
    texts = generate_sentences(320, seed=1)
    assert len({text.lower() for text in texts}) == 320
    assert {len(text.split()) for text in texts} <= {4, 5, 6, 7}
    function = {word for kind in FUNCTION_KINDS for word in WORDS[kind]}
    function |= set("a an and did is never please the there were will".split())
    stems = [
        {
            word[:4]  # plurals and pasts count as the same word
            for word in re.findall(r"\w{2,}", text.lower())
            if word not in function
        }
        for text in texts
    ]
    shared = [len(a & b) for a, b in combinations(stems, 2)]
    # Chance likeness of the first letters ("Mar-tha", "mar-ket") is allowed.
    assert max(shared) <= 2 and np.mean(np.array(shared) == 2) < 1e-3


def test_sentences_depend_on_the_seed_only():
    assert generate_sentences(50, seed=3) == generate_sentences(90, seed=3)[:50]
    assert generate_sentences(50, seed=3) != generate_sentences(50, seed=4)


def test_too_many_sentences(monkeypatch):
    monkeypatch.setattr(sentences, "PATTERNS", ["{name} {act:ed} {where} us."])
    monkeypatch.setitem(WORDS, "name", ["Ann", "Bob"])
    monkeypatch.setitem(WORDS, "act", "sing/sang hum/hummed sit/sat".split())
    assert len(generate_sentences(6)) == 6
    with pytest.raises(InputError, match="7 sentences were asked for"):
        generate_sentences(7)


def test_listed_voices_exist_and_are_enough(synthesizer):
    voices = synthesizer.voices()
    assert len(voices) >= 56
    assert len({voice.ID for voice in voices}) == len(voices)
    folder = Path(synthesizer.data_path, "voices/!v")
    names = {path.name for path in folder.iterdir()}
    assert {voice.variant for voice in voices} <= names
    assert {voice.gender for voice in voices} == {"female", "male"}
    assert all(0 <= v.pitch <= 99 and 0 <= v.range <= 99 for v in voices)
    assert read_voices(VOICES_CSV) == voices


def test_espeak_is_a_synthesizer(synthesizer):
    assert isinstance(synthesizer, Synthesizer)
    assert json.loads(json.dumps(synthesizer.settings)) == synthesizer.settings
    samples, rate = synthesizer.synthesize(TEXT, make_voice("f2", "en-us"))
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert np.abs(samples).max() <= 1 and 1.5 < len(samples) / rate < 2.5


def test_what_makes_a_voice_changes_the_sound(synthesizer):
    accents = ("f2", "en-us"), ("f3", "en-us"), ("f2", "en-gb-scotland")
    voices = [*accents, ("f2", "en-us", 80), ("f2", "en-us", 50, 90)]
    voices = [make_voice(*voice) for voice in voices]
    clips = {synthesizer.synthesize(TEXT, v)[0].tobytes() for v in voices}
    assert len(clips) == len(voices)


def test_a_clip_is_the_same_alone_and_after_others(synthesizer):
    voices = [make_voice(variant, "en-us", 60) for variant in DELICATE]

    def clips(order):
        return {
            voice.ID: synthesizer.synthesize(TEXT, voice)[0].tobytes()
            for voice in order
        }

    first = clips(voices)
    synthesizer.synthesize("Something else.", make_voice("f5", "en-gb-x-rp"))
    assert clips(voices[::-1]) == first
    assert all(clips([voice])[voice.ID] == first[voice.ID] for voice in voices)


def test_a_clip_is_the_same_in_another_process(synthesizer):
    # New memory is filled with another byte in each: nothing may read it.
    script = f"""
import hashlib, sys
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer, make_voice
variants = {DELICATE!r}
if sys.argv[1] == "1":
    variants.reverse()
synthesizer = EspeakSynthesizer()
for variant in variants:
    voice = make_voice(variant, "en-gb-scotland", 30, 80)
    samples, _ = synthesizer.synthesize({TEXT!r}, voice)
    print(variant, hashlib.sha256(samples.tobytes()).hexdigest())
"""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script, str(number)],
            env={**os.environ, "MALLOC_PERTURB_": perturbation},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number, perturbation in enumerate(("0", "90", "165"))
    ]
    assert len(outputs[0].splitlines()) == len(DELICATE)
    assert len({tuple(sorted(text.splitlines())) for text in outputs}) == 1


def test_espeak_refuses_what_it_would_say_differently(synthesizer):
    with pytest.raises(InputError, match="no variant 'f99'"):
        synthesizer.synthesize(TEXT, make_voice("f99", "en-us"))
    with pytest.raises(InputError, match="no accent 'xx-yy'"):
        synthesizer.synthesize(TEXT, make_voice("f2", "xx-yy"))
    with pytest.raises(InputError, match="says nothing"):
        synthesizer.synthesize("", make_voice("f2", "en-us"))


@pytest.mark.skipif(not hasattr(os, "RTLD_NOLOAD"), reason="cannot be asked")
def test_espeak_refuses_a_library_that_others_use(synthesizer):
    library = ctypes.CDLL(synthesizer.library_path)
    try:
        with pytest.raises(RuntimeError, match="in use"):
            synthesizer.synthesize(TEXT, make_voice("f2", "en-us"))
    finally:
        espeak._unload(library)
    synthesizer.synthesize(TEXT, make_voice("f2", "en-us"))


def test_clips_are_equally_loud(synthesizer):
    levels = []
    for voice in synthesizer.voices()[:12]:
        samples = render_clip(synthesizer, TEXT, voice).astype(float)
        assert np.abs(samples).max() <= 32440
        levels.append(np.sqrt(np.mean(samples**2)) / 32768)
    assert np.ptp(20 * np.log10(levels)) < 1


def test_silence_is_refused():
    for length in (0, 5, 9000):
        backend = saying(np.zeros(length), 8000)
        with pytest.raises(InputError, match="nothing audible"):
            render_clip(backend, "Quiet.", Voice("v", "v", ""))


def test_workers_do_not_change_a_grid(synthesizer, tmp_path):
    voices = [make_voice(variant, "en-us") for variant in DELICATE[:4]]
    texts = enumerate(generate_sentences(9, seed=2))
    texts = {f"s{number}": text for number, text in texts}
    rows = [
        render(synthesizer, voices, texts, tmp_path / str(count), count)
        for count in (1, 2)
    ]
    assert rows[0] == rows[1]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    for row in rows[0]:
        info = soundfile.info(tmp_path / "1" / row["wav"])
        assert (info.samplerate, info.channels) == (16000, 1)
        assert (info.format, info.subtype) == ("WAV", "PCM_16")
        assert info.duration == row["duration"]


class Speechless(Tones):
    """A backend that one sentence leaves speechless."""

    says = InputError, "The voice 't0' says nothing audible for 'Sentence 17'"

    def synthesize(self, text, voice):
        samples, rate = super().synthesize(text, voice)
        return samples * (text != "Sentence 17"), rate


class Crashing(Tones):
    """A backend that fails as third-party code does."""

    says = (
        RuntimeError,
        (
            "t0/t0_s17.wav could not be rendered (voice 't0', text "
            "'Sentence 17'): ZeroDivisionError: of a spectrum"
        ),
    )

    def synthesize(self, text, voice):
        if text == "Sentence 17":
            raise ZeroDivisionError("of a spectrum")
        return super().synthesize(text, voice)


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("backend", [Speechless(), Crashing()])
def test_an_error_in_a_worker_names_the_cell(tmp_path, backend, num_workers):
    texts = {f"s{number}": f"Sentence {number}" for number in range(20)}
    kind, said = backend.says
    with pytest.raises(kind) as error:
        render(backend, backend.voices(), texts, tmp_path, num_workers)
    assert str(error.value) == said
    for name in contents(tmp_path):
        assert "/." not in name and soundfile.info(tmp_path / name).frames


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_resampling_keeps_pitch_and_length(rate):
    sine = np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    samples = render_clip(saying(sine, rate), "", None)
    assert len(samples) == 16000
    assert np.abs(np.fft.rfft(samples)).argmax() == 440
    level = 20 * np.log10(samples.std() / 32768)
    assert level == pytest.approx(-26, abs=0.01)


def test_an_interrupted_grid_is_completed(tmp_path):
    tones, texts = Tones(), {"a": "One.", "b": "Three.", "c": "Fifteen."}
    voices = tones.voices()[:4]
    rows = render(tones, voices, texts, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        render(Tones(broken="Three."), voices, texts, tmp_path / "part")
    assert list(contents(tmp_path / "part")) == ["t0/t0_a.wav"]
    # What a crash of the whole machine may leave behind.
    (tmp_path / "part/t0/t0_b.wav").write_bytes(b"RIFF")
    (tmp_path / "part/t0/t0_c.wav").touch()
    kept = (tmp_path / "part/t0/t0_a.wav").stat().st_mtime_ns
    assert render(tones, voices, texts, tmp_path / "part") == rows
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")
    assert (tmp_path / "part/t0/t0_a.wav").stat().st_mtime_ns == kept


def test_grid_ids_must_be_distinct_file_names(tmp_path):
    for voices, match in (
        ([Voice("a/b", "a", "")], "not a plain file"),
        ([Voice("a", "a", ""), Voice("A", "a", "")], "Two cells"),
    ):
        with pytest.raises(InputError, match=match):
            render(Tones(), voices, {"s": "Hi."}, tmp_path)
    assert contents(tmp_path) == {}


class Order(Tones):
    """A backend that writes down what it is asked for."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def synthesize(self, text, voice):
        self.calls.append(voice.ID)
        return np.sin(np.arange(len(text) * 100) / 9), 8000


def reference_cells():
    """Eight cells of three references in turn; the texts differ in length."""
    voices = [ReferenceVoice(f"r{n}", f"r{n}.wav", "Text.") for n in range(3)]
    rows = [
        {"ID": f"c{n}", "wav": f"spk/c{n}.wav", "text": "x" * (n + 1), "a": n}
        for n in range(8)
    ]
    return [(row, voices[n % 3]) for n, row in enumerate(rows)]


def test_cells_are_rendered_voice_by_voice(tmp_path):
    backend = Order()
    rows = render_cells(backend, reference_cells(), tmp_path, progress=False)
    assert backend.calls == [f"r{n}" for n in "00011122"]
    # The rows keep their order and columns.
    assert rows == [
        {**row, "duration": len(row["text"]) / 80}
        for row, _ in reference_cells()
    ]


def test_shards_take_whole_voices(tmp_path):
    counts = []
    for index in (2, 0, 1, 0):
        backend = Order()
        cells, shard = reference_cells(), (index, 3)
        rows = render_cells(backend, cells, tmp_path, shard=shard)
        assert set(backend.calls) <= {f"r{index}"}
        counts.append(
            (len(backend.calls), [r["duration"] for r in rows].count(None))
        )
    assert counts == [(2, 6), (3, 3), (3, 0), (0, 0)]


def test_cells_that_can_not_be_rendered(tmp_path):
    cells = reference_cells()
    (row, voice), other = cells[0], ReferenceVoice("r0", "other.wav", "Text.")
    for bad, match in (
        ([*cells, ({**row, "wav": "SPK/c3.wav"}, voice)], "Two cells"),
        ([({**row, "wav": "/etc/a.wav"}, voice)], "not below the folder"),
        ([({**row, "wav": "../a.wav"}, voice)], "not below the folder"),
        ([*cells, ({**row, "wav": "new.wav"}, other)], "have the ID 'r0'"),
    ):
        with pytest.raises(InputError, match=match):
            render_cells(Order(), bad, tmp_path, progress=False)
    for shard in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(InputError, match="no shard"):
            render_cells(Order(), cells, tmp_path, shard=shard)
    assert contents(tmp_path) == {}


def test_a_manifest_says_whether_a_grid_is_finished(tmp_path):
    cells, path = reference_cells(), tmp_path / "manifest.csv"
    assert not check_manifest(path, cells, tmp_path)
    for text in ("", "anything", "ID,wav\n", "wav\nc0.wav\n", "ID\nc0\nc99\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="something else"):
            check_manifest(path, cells, tmp_path)
        assert path.read_text() == text
    path.write_text("ID\nc0\nc1\n")  # the other cells are filtered out
    render_cells(Order(), cells, tmp_path, progress=False)
    assert check_manifest(path, cells, tmp_path)
    text, wav = path.read_text(), tmp_path / "spk/c5.wav"
    for damage in (lambda: wav.write_bytes(wav.read_bytes()[:-9]), wav.unlink):
        path.write_text(text)
        damage()
        assert not check_manifest(path, cells, tmp_path) and not path.exists()
