"""Quality of rendered clips, and the filter by it."""

import numpy as np
import pytest
import soundfile

from speechbrain_ext.synthesis.espeak import EspeakSynthesizer
from speechbrain_ext.synthesis.grid import render_clip
from speechbrain_ext.synthesis.quality import (
    add_quality,
    clipping,
    filter_rows,
    measure_clip,
    word_error_rate,
)
from speechbrain_ext.synthesis.sentences import generate_sentences
from speechbrain_ext.utils.errors import InputError

RATE = 16000


def tone(seconds, level=0.5):
    return level * np.sin(np.arange(round(seconds * RATE)) / 3)


@pytest.fixture
def grid(tmp_path):
    """Three clips, and the recordings of the voices they were to have."""
    rows = []
    for number, text in enumerate(("One two.", "Three four!", "Five six?")):
        name = f"c{number}"
        soundfile.write(tmp_path / f"{name}.wav", tone(number + 1), RATE)
        rows.append({"ID": name, "wav": f"{name}.wav", "text": text, "x": "y"})
    for name, seconds in (("ann", 3), ("bob", 5)):
        soundfile.write(tmp_path / f"{name}.wav", tone(seconds), RATE)
    return tmp_path, rows


def test_duration_and_speaking_rate():
    measures = measure_clip(tone(2), RATE, "It's 8 o'clock, José!")
    assert measures["duration"] == 2
    assert measures["speaking_rate"] == len("Its8oclockJosé") / 2


@pytest.mark.parametrize("gain", [1e-3, 1])
def test_silence_is_relative_to_the_clip(gain):
    def silence(samples):
        return measure_clip(gain * samples, RATE, "a")["silence"]

    assert silence(tone(1)) == 0
    assert silence(np.concatenate([tone(1), 0 * tone(1)])) == 0.5
    # Half the clip: the level is 3 dB under the loud half, the limit 33 dB.
    for decibels, share in ((31, 0), (35, 0.5)):
        quiet = tone(1) * 10 ** (-decibels / 20)
        assert silence(np.concatenate([tone(1), quiet])) == share
    assert silence(tone(0.01)) == 0


class Clipped:
    """espeak-ng, of which the loudest samples are cut off."""

    def __init__(self, share):
        self.espeak, self.share = EspeakSynthesizer(), share

    def synthesize(self, text, voice):
        samples, rate = self.espeak.synthesize(text, voice)
        peak = np.quantile(np.abs(samples), 1 - self.share)
        return np.clip(samples, -peak, peak), rate


def test_clipping_is_found_after_resampling_and_levelling():
    pytest.importorskip("espeakng_loader")
    voices = EspeakSynthesizer().voices()[:20]
    texts = generate_sentences(len(voices), seed=5)

    def shares(clipped):
        return [
            clipping(render_clip(Clipped(clipped), text, voice).astype(float))
            for text, voice in zip(texts, voices)
        ]

    clean, light, heavy = map(shares, (0, 0.01, 0.03))
    assert np.mean(np.array(clean) < 0.005) >= 0.9
    for clipped in (light, heavy):
        assert np.mean(np.array(clipped) > 0.005) >= 0.9
    assert np.median(light) == pytest.approx(0.01, rel=0.3)
    assert np.median(heavy) == pytest.approx(0.03, rel=0.3)


def test_clipping_counts_runs_of_one_sign():
    assert clipping(np.zeros(100)) == 0
    square = np.tile([1.0, 1, 1, -1, -1, -1], 100)
    assert clipping(square) == 1
    assert clipping(np.tile([1.0, 1, -1, -1], 100)) == 0
    assert clipping(np.tile([1.0, 1, 1, 0, 0], 100)) == 0.6
    spike = np.tile(square, 4)
    spike[300] = 20  # one sample that stands out hides nothing
    assert clipping(spike) > 0.9


def test_word_error_rate():
    assert word_error_rate("The cat's hat, Ann.", "the cat\u2019s HAT ann") == 0
    assert word_error_rate("one two three four", "one too four") == 0.5
    assert word_error_rate("one two", "") == 1
    assert word_error_rate("one", "one two three") == 2
    with pytest.raises(InputError, match="no words"):
        word_error_rate("...", "one")


def test_columns_of_a_grid(grid):
    folder, rows = grid
    heard = []

    def transcribe(samples, rate):
        assert samples.dtype == np.float32 and rate == RATE
        heard.append(len(samples) / rate)
        return "one two"

    def embed(samples, rate):
        embedded.append(len(samples) / rate)
        return [np.cos(len(samples) / rate), np.sin(len(samples) / rate)]

    embedded = []
    voices = {"c0": "ann", "c1": "ann", "c2": "bob"}
    references = {clip: folder / f"{voices[clip]}.wav" for clip in voices}
    measured = add_quality(rows, folder, transcribe, embed, references)
    columns = (
        "ID wav text x duration speaking_rate clipping silence "
        "word_error_rate speaker_similarity"
    )
    assert [list(row) for row in measured] == [columns.split()] * 3
    assert [row["duration"] for row in measured] == [1, 2, 3] == heard
    assert [row["word_error_rate"] for row in measured] == [0, 1, 1]
    assert [row["speaker_similarity"] for row in measured] == pytest.approx(
        [np.cos(2), np.cos(1), np.cos(2)]
    )
    assert sorted(embedded) == [1, 2, 3, 3, 5]  # a reference once
    assert "duration" not in rows[0]

    # Without models
    assert list(add_quality(rows, folder)[0]) == columns.split()[:8]


def test_what_cannot_be_measured(grid):
    folder, rows = grid
    with pytest.raises(InputError, match="gone.wav cannot be measured"):
        add_quality([{**rows[0], "wav": "gone.wav"}], folder)
    soundfile.write(folder / "c1.wav", np.zeros(0), RATE)
    with pytest.raises(InputError, match="c1.wav .* is empty"):
        add_quality(rows, folder)
    for references in (None, {}):
        with pytest.raises(InputError, match="'c0' has no reference"):
            add_quality(rows[:1], folder, None, lambda *_: [1], references)


def test_filter_counts_every_reason():
    rows = [
        {"ID": n, "rate": rate, "clipping": str(clipped)}
        for n, (rate, clipped) in enumerate(
            [(5, 0), (10, 0.01), (20, 0), (30, 0.02), (40, 0.03)]
        )
    ]
    limits = {"rate": [10, 30], "clipping": [None, 0.015]}
    kept, dropped = filter_rows(rows, limits)
    assert kept == rows[1:3]
    assert dropped == {"rate < 10": 1, "clipping > 0.015": 2, "rate > 30": 1}
    assert filter_rows(rows, {}) == (rows, {})
    assert filter_rows(rows, {"rate": [40, None]})[0] == rows[4:]


def test_what_cannot_be_filtered():
    nan = float("nan")
    bad = [5, [5], [None, None], [3, 2], ["1", 2], [None, nan], [1, 2, 3]]
    for limit in [*bad, {"low": 1}, {"low": 1, "high": 2}]:
        with pytest.raises(InputError, match="limit of rate is .* expected"):
            filter_rows([], {"rate": limit})
    for value in ("", None, "fast", "nan"):
        with pytest.raises(InputError, match="'a' has .* as rate"):
            filter_rows([{"ID": "a", "rate": value}], {"rate": [1, 2]})
    with pytest.raises(InputError, match="None as sped.* has ID, speed"):
        filter_rows([{"ID": "a", "speed": 1}], {"sped": [1, 2]})
