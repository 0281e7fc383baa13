"""What every speech synthesiser has to do, and what F5-TTS and Kokoro do.

The packages f5-tts and kokoro-onnx are stood in for by modules with the
signatures of f5-tts 1.1.22 and kokoro-onnx 0.6.1. They lie on disk, so that
worker processes find them too.
"""

import importlib.metadata
import importlib.util
import inspect
import json
import pickle
import random
import re
import sys
import tempfile
from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from helpers import contents

from speechbrain_ext.synthesis import f5
from speechbrain_ext.synthesis.base import ReferenceVoice, Synthesizer, Voice
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer, make_voice
from speechbrain_ext.synthesis.f5 import F5Synthesizer
from speechbrain_ext.synthesis.grid import render_cells
from speechbrain_ext.synthesis.kokoro import KokoroSynthesizer
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import load_hparams

KOKORO_VOICES = [
    Voice("af_ann", "af_ann", "en-us", gender="female"),
    Voice("bm_bob", "bm_bob", "en-gb", gender="male"),
]
TEXTS = [f"Lamp number {number} hums." for number in range(20)]

# Each appends a line to the file named by STAND_IN_LOG: process, event, ...
LOG = """
import json, os

def log(*event):
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write(json.dumps([os.getpid(), *event]) + "\\n")
"""
STAND_INS = {
    "stand_in_log.py": LOG,
    "f5_tts/__init__.py": "",
    "f5_tts/infer/__init__.py": "",
    "f5_tts/api.py": """
import threading
import torch
from stand_in_log import log

class F5TTS:
    def __init__(self, model="F5TTS_v1_Base", ckpt_file="", vocab_file="",
                 ode_method="euler", use_ema=True, vocoder_local_path=None,
                 device=None, hf_cache_dir=None):
        print("model : ", model)
        log("load", model, ckpt_file, vocab_file, vocoder_local_path, device)
        if model == "unreachable":
            raise ConnectionError("no route to the hub")
        self.ema_model = torch.randn(3)  # as initial weights are drawn
        self.vocoder = threading.Lock()  # can not be pickled
        self.mel_spec_type = "vocos"
""",
    "f5_tts/infer/utils_infer.py": """
import hashlib, tempfile
from concurrent.futures import ThreadPoolExecutor
import soundfile, torch, tqdm
from stand_in_log import log

_ref_audio_cache = {}

def preprocess_ref_audio_text(ref_audio_orig, ref_text, show_info=print):
    show_info("Converting audio...")
    assert ref_text.strip(), "would be transcribed"
    log("prepare", ref_audio_orig, ref_text)
    with open(ref_audio_orig, "rb") as file:
        key = hashlib.md5(file.read()).hexdigest()
    if key not in _ref_audio_cache:
        samples, rate = soundfile.read(ref_audio_orig)
        with tempfile.NamedTemporaryFile(suffix=".wav", delete=False) as file:
            soundfile.write(file.name, samples, rate)
        _ref_audio_cache[key] = file.name
    print("ref_text", ref_text)
    return _ref_audio_cache[key], ref_text + ". "

def infer_batch_process(
    ref_audio, ref_text, gen_text_batches, model_obj, vocoder,
    mel_spec_type="vocos", progress=tqdm, target_rms=0.1,
    cross_fade_duration=0.15, nfe_step=32, cfg_strength=2.0,
    sway_sampling_coef=-1, speed=1, fix_duration=None, device=None,
    streaming=False, chunk_size=2048,
):
    audio, sr = ref_audio
    assert audio.ndim == 2 and audio.dtype == torch.float32

    def infer(text):
        log("infer", ref_text, text, nfe_step, cfg_strength, speed, device)
        noise = torch.randn(int(100 * len(text) / speed))
        return (noise + 9 * audio.mean()).numpy()

    with ThreadPoolExecutor() as executor:
        futures = [executor.submit(infer, text) for text in gen_text_batches]
        for future in progress.tqdm(futures) if progress else futures:
            yield future.result(), 24000, None
""",
    "onnxruntime.py": """
seed = 0

def set_seed(value):
    global seed
    seed = value
""",
    "kokoro_onnx.py": """
import threading
import numpy as np
import onnxruntime
from stand_in_log import log

class Kokoro:
    def __init__(self, model_path, voices_path, espeak_config=None,
                 vocab_config=None):
        log("load", model_path, voices_path)
        self.lock = threading.Lock()  # can not be pickled
        self.voices = np.load(voices_path)
        # An export with noise in its graph keeps the state of the noise.
        self.noise = None
        with open(model_path, "rb") as file:
            if file.read() == b"noisy":
                self.noise = np.random.default_rng(onnxruntime.seed)

    def create(self, text, voice, speed=1.0, lang="en-us", is_phonemes=False,
               trim=True, sentence_pause=0.25, clause_pause=0.1,
               continuous=False):
        if voice not in self.voices:
            raise ValueError(f"Voice {voice} not found in available voices")
        log("create", text, voice, speed, lang)
        time = np.arange(int(100 * len(text) / speed), dtype=np.float32)
        pitch = self.voices[voice].mean() + sum(map(ord, text)) / 9999
        audio = 2 * np.sin(time * pitch / 50)
        if self.noise is not None:
            audio += self.noise.normal(size=len(audio)) / 9
        return audio.astype(np.float32), 24000

    def get_voices(self):
        return sorted(self.voices.keys())
""",
}
VERSIONS = {"f5-tts": "1.1.22", "kokoro-onnx": "0.6.1", "onnxruntime": "1.20"}


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Puts the stand-ins before real packages; gives the list of events."""
    folder = tmp_path / "site"
    for name, source in STAND_INS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    for name, version in VERSIONS.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    (tmp_path / "log").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.syspath_prepend(folder)
    roots = {name.split("/")[0].removesuffix(".py") for name in STAND_INS}

    def loaded():
        return [name for name in sys.modules if name.split(".")[0] in roots]

    for name in loaded():  # the real ones
        monkeypatch.delitem(sys.modules, name)

    def events(kind):
        lines = (tmp_path / "log").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event[1] == kind]

    yield events
    for name in loaded():
        del sys.modules[name]


def write_reference(path, seconds=0.5, level=0.01):
    soundfile.write(path, np.full(int(seconds * 16000), level), 16000)
    return str(path)


@pytest.fixture(params=["espeak", "f5", "kokoro", "noisy kokoro"])
def backend(request, tmp_path):
    """How to make a backend, voices for it, and what changes its sound."""
    if request.param == "espeak":
        pytest.importorskip("espeakng_loader")
        return SimpleNamespace(
            make=EspeakSynthesizer,
            voices=[make_voice(name, "en-us") for name in ("f2", "klatt")],
            missing=make_voice("f99", "en-us"),
            changes={"rate": 120},
            loads=None,
        )
    request.getfixturevalue("stand_ins")
    files = tmp_path / "files"
    files.mkdir()
    for name in ("a", "b", "noisy", "pytorch_model.bin"):
        (files / name).write_bytes(name.encode())
    if request.param == "f5":
        ann = write_reference(files / "ann.wav", 1)
        bob = write_reference(files / "bob.wav", 1, 0.3)
        return SimpleNamespace(
            make=partial(F5Synthesizer, ckpt_file=files / "a", device="cpu"),
            voices=[
                ReferenceVoice("ann", ann, "A"),
                ReferenceVoice("bob", bob, "B"),
            ],
            missing=ReferenceVoice("f99", str(files / "none.wav"), "None."),
            changes={
                "model": "E2TTS_Base",
                "ckpt_file": files / "b",
                "vocab_file": files / "b",
                "vocoder_folder": files,
                "device": "cuda",
                "seed": 2,
                "nfe_step": 16,
                "cfg_strength": 1.0,
                "speed": 0.5,
            },
            loads="once",
        )
    np.savez(files / "v", af_ann=np.ones(3), bm_bob=np.full(3, 2))
    np.savez(files / "w", af_ann=np.ones(3))
    noisy = request.param == "noisy kokoro"
    return SimpleNamespace(
        make=partial(
            KokoroSynthesizer,
            model_path=files / ("noisy" if noisy else "a"),
            voices_path=files / "v.npz",
        ),
        voices=KOKORO_VOICES,
        missing=Voice("f99", "f99", "en-us"),
        changes={
            "model_path": files / "b",
            "voices_path": files / "w.npz",
            "speed": 1.5,
            "seed": 2,
        },
        loads="a clip" if noisy else "once",
    )


def make_cells(voices, texts=TEXTS):
    """Cells whose voice changes from one to the next."""
    return [
        ({"ID": f"{v.ID}_{n}", "wav": f"{v.ID}/{n}.wav", "text": text}, v)
        for n, text in enumerate(texts)
        for v in voices
    ]


def render(synthesizer, voices, folder, num_workers=1, shard=(0, 1)):
    cells = make_cells(voices)
    return render_cells(
        synthesizer, cells, folder, 16000, num_workers, shard, progress=False
    )


def say(synthesizer, text, voice):
    return synthesizer.synthesize(text, voice)[0].tobytes()


def test_interface(backend, capsys):
    synthesizer = backend.make()
    assert isinstance(synthesizer, Synthesizer)
    assert all(isinstance(voice, Voice) for voice in synthesizer.voices())
    for voice in backend.voices:
        samples, rate = synthesizer.synthesize(TEXTS[0], voice)
        assert samples.dtype == np.float32 and samples.ndim == 1
        assert np.isfinite(samples).all() and np.abs(samples).max() <= 1
        assert isinstance(rate, int) and len(samples) > 0.05 * rate
    assert capsys.readouterr() == ("", "")


def test_settings_tell_whatever_changes_the_sound(backend):
    settings = backend.make().settings
    assert json.loads(json.dumps(settings)) == settings
    assert settings == backend.make().settings
    for name, value in backend.changes.items():
        assert backend.make(**{name: value}).settings != settings, name
    # A new argument is to be listed here, and so to be in the settings.
    parameters = inspect.signature(type(backend.make())).parameters
    assert set(parameters) == set(backend.changes)
    # The grid has a seed of its own beside the backend's settings.
    assert not {"seed", "format", "voices", "sentences"} & set(settings)


def test_a_clip_depends_on_text_and_voice_only(backend):
    ann, bob = backend.voices
    calls = [(text, voice) for voice in (ann, bob, ann) for text in TEXTS[:3]]
    synthesizer = backend.make()
    clips = {}
    for text, voice in calls:
        clip = say(synthesizer, text, voice)
        assert clips.setdefault((text, voice), clip) == clip
    assert len(set(clips.values())) == len(clips) == 6
    for text, voice in calls[:2]:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        assert say(backend.make(), text, voice) == clips[text, voice]


def test_generators_of_others_are_left_alone(backend):
    def states():
        return (
            torch.get_rng_state().tolist(),
            str(np.random.get_state()),
            random.getstate(),
        )

    synthesizer, before = backend.make(), states()
    for voice in backend.voices:
        synthesizer.synthesize(TEXTS[0], voice)
    assert states() == before


def test_pickling_before_and_after_use(backend):
    synthesizer = backend.make()
    fresh = pickle.dumps(synthesizer)
    clip = say(synthesizer, TEXTS[1], backend.voices[0])
    used = pickle.dumps(synthesizer)
    for pickled in (fresh, used):
        again = pickle.loads(pickled)
        assert again.settings == synthesizer.settings
        assert say(again, TEXTS[1], backend.voices[0]) == clip


def test_workers_shards_and_resuming(backend, tmp_path, request):
    """All ways to render give the same rows and bytes."""
    rows = render(backend.make(), backend.voices, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    assert [row["ID"] for row in rows] == [
        row["ID"] for row, _ in make_cells(backend.voices)
    ]
    assert len(whole) == len(rows) and all(row["duration"] for row in rows)

    workers = render(backend.make(), backend.voices, tmp_path / "two", 2)
    assert workers == rows and contents(tmp_path / "two") == whole

    for index in (1, 0):
        shard = {"shard": (index, 2)}
        part = render(
            backend.make(), backend.voices, tmp_path / "parts", **shard
        )
        missing = {row["wav"][:3] for row in part if row["duration"] is None}
        assert missing == ({backend.voices[0].ID[:3]} if index else set())
    assert part == rows and contents(tmp_path / "parts") == whole

    # Nothing is left to do.
    assert render(None, backend.voices, tmp_path / "two") == rows

    if backend.loads == "once":
        events = request.getfixturevalue("stand_ins")
        loads = Counter(pid for pid, *_ in events("load"))
        own = loads.pop(next(iter(loads)))
        assert own == 3  # a backend for "whole" and for each shard
        # The workers of "two", which got three pieces of work.
        assert set(loads.values()) == {1}


def test_a_failure_names_the_voice(backend, tmp_path):
    voices = [*backend.voices, backend.missing]
    with pytest.raises((InputError, RuntimeError), match="f99") as error:
        render(backend.make(), voices, tmp_path / "grid")
    if error.type is RuntimeError:
        assert "f99/0.wav" in str(error.value)
        assert repr(TEXTS[0]) in str(error.value)
    # What was finished before is kept.
    finished = make_cells(backend.voices)
    assert set(contents(tmp_path / "grid")) == {r["wav"] for r, _ in finished}


@pytest.fixture
def clone(stand_ins, tmp_path):
    """An F5 backend on the CPU, and two references."""
    voices = [
        ReferenceVoice(name, write_reference(tmp_path / f"{name}.wav"), text)
        for name, text in (("ann", "I am Ann"), ("bob", "Call me Bob"))
    ]
    return SimpleNamespace(
        make=partial(F5Synthesizer, device="cpu"),
        voices=voices,
        events=stand_ins,
    )


def test_f5_prepares_a_reference_once(clone, tmp_path):
    render(clone.make(), clone.voices, tmp_path / "grid")
    assert [event[2:] for event in clone.events("prepare")] == [
        [voice.wav, voice.text] for voice in clone.voices
    ]
    heard = [tuple(event[2:4]) for event in clone.events("infer")]
    assert heard == [
        (f"{voice.text}. ", text) for voice in clone.voices for text in TEXTS
    ]


def test_f5_hands_on_its_options(clone, tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    options = dict(
        model="E2TTS_Base",
        ckpt_file=clone.voices[0].wav,
        vocab_file=clone.voices[1].wav,
        vocoder_folder=tmp_path,
        nfe_step=8,
        cfg_strength=1.5,
        speed=0.8,
    )
    clone.make(**options).synthesize("Hi.", clone.voices[0])
    assert clone.events("load")[0][2:] == [
        *(str(value) for value in list(options.values())[:4]),
        "cpu",
    ]
    assert clone.events("infer")[0][4:] == [8, 1.5, 0.8, "cpu"]
    assert clone.make().voices() == []  # they come with the cells
    # Nothing of the user's folders is in the settings.
    assert str(tmp_path) not in json.dumps(clone.make(**options).settings)


def test_f5_noise_differs_from_cell_to_cell(clone):
    ann, bob = clone.voices  # with the same audio
    clips = [
        say(clone.make(seed=seed), text, voice)
        for seed in (1, 2)
        for text in ("Hello.", "Hullo.")
        for voice in (ann, bob)
    ]
    assert len(set(clips)) == 8


def test_f5_leaves_no_temporary_files(clone, tmp_path, monkeypatch):
    at_exit = []
    monkeypatch.setattr(
        f5.atexit,
        "register",
        lambda *call, **o: at_exit.append(partial(*call, **o)),
    )
    synthesizer = clone.make()
    for voice in (*clone.voices, clone.voices[0]):
        synthesizer.synthesize("Hello.", voice)
    assert contents(tmp_path / "temporary")
    for function in at_exit:
        function()
    assert not contents(tmp_path / "temporary")


def test_f5_refuses_what_would_go_wrong(clone, tmp_path):
    synthesizer, (ann, _) = clone.make(), clone.voices
    long = write_reference(tmp_path / "long.wav", 12.1)
    for text, voice, match in (
        ("Hi.", ReferenceVoice("r", long, "Well"), "12.1 seconds"),
        ("Hi.", ReferenceVoice("r", ann.wav, " "), "'r' has no text"),
        ("Hi.", ReferenceVoice("r", "no.wav", "Well"), "'r' cannot be read"),
        (" ", ann, "says nothing"),
    ):
        with pytest.raises(InputError, match=match):
            synthesizer.synthesize(text, voice)
    assert not clone.events("infer") and not clone.events("prepare")
    with pytest.raises(InputError, match="no.pt cannot be read"):
        clone.make(ckpt_file="no.pt")
    with pytest.raises(InputError, match="hub.*give ckpt_file"):
        clone.make(model="unreachable").synthesize("Hi.", ann)


@pytest.fixture
def kokoro_files(stand_ins, tmp_path):
    np.savez(
        tmp_path / "v",
        **{name: np.ones(3) for name in ("af_ann", "bm_bob", "jf_kimi")},
    )
    (tmp_path / "model").write_bytes(b"noisy")
    return tmp_path / "model", tmp_path / "v.npz"


def test_kokoro_hands_on_voice_speed_and_accent(kokoro_files, stand_ins):
    synthesizer = KokoroSynthesizer(*kokoro_files, speed=1.2)
    assert synthesizer.voices() == KOKORO_VOICES  # the English ones
    synthesizer.synthesize("Hello.", synthesizer.voices()[1])
    assert stand_ins("create")[0][2:] == ["Hello.", "bm_bob", 1.2, "en-gb"]


def test_kokoro_seeds_its_noise(kokoro_files):
    voice = KokoroSynthesizer(*kokoro_files).voices()[0]
    clips = [
        say(KokoroSynthesizer(*kokoro_files, seed=seed), "Hello.", voice)
        for seed in (1, 2, 1)
    ]
    assert clips[0] == clips[2] != clips[1]


def test_kokoro_by_the_command_line(kokoro_files, tmp_path, monkeypatch):
    """As the recipe's README has it."""
    recipe = ROOT / "recipes/InterventionalTTS/post-training"
    readme = (recipe / "README.md").read_text(encoding="utf-8")
    [option] = re.findall(r"--backend='(.*)'", readme)
    monkeypatch.syspath_prepend(recipe)
    monkeypatch.chdir(tmp_path)
    for path, name in zip(
        kokoro_files, ("kokoro-v1.0.onnx", "voices-v1.0.bin")
    ):
        path.rename(name)
    options = load_hparams(
        recipe / "hparams/interventional.yaml",
        f"backend: {option}\noutput_folder: {tmp_path}",
    )
    backend = options["prepare"].keywords["backend"]
    assert [voice.ID for voice in backend.voices()] == ["af_ann", "bm_bob"]


def test_kokoro_says_where_its_files_are(kokoro_files):
    for paths in (("no.onnx", kokoro_files[1]), (kokoro_files[0], "no.bin")):
        with pytest.raises(InputError, match="no file no.*releases of"):
            KokoroSynthesizer(*paths)


@pytest.mark.parametrize(
    "make, extra",
    [
        (EspeakSynthesizer, "demo"),
        (F5Synthesizer, "paper"),
        (lambda: KokoroSynthesizer("m", "v"), "kokoro"),
    ],
)
def test_without_the_package_the_extra_is_named(monkeypatch, make, extra):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError, match=rf"\[{extra}\]"):
        make()


@pytest.mark.parametrize(
    "module, names",
    [
        ("f5_tts.api", ["F5TTS"]),
        (
            "f5_tts.infer.utils_infer",
            ["preprocess_ref_audio_text", "infer_batch_process"],
        ),
        ("kokoro_onnx", ["Kokoro", "Kokoro.create", "Kokoro.get_voices"]),
    ],
)
def test_stand_ins_have_the_real_signatures(module, names, request):
    """Where the packages are installed."""
    if importlib.util.find_spec(module.split(".")[0]) is None:
        pytest.skip(f"needs {module}")

    def signatures():
        found = {}
        for name in names:
            function = importlib.import_module(module)
            for part in name.split("."):
                function = getattr(function, part)
            parameters = inspect.signature(function).parameters.values()
            found[name] = [
                (p.name, p.kind, p.default)
                for p in parameters
                if not inspect.ismodule(p.default)
            ]
        return found

    real = signatures()
    request.getfixturevalue("stand_ins")
    assert signatures() == real
