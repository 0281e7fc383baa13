"""A folder in the layout of CREMA-D, with buzzes in place of speech."""

from itertools import product

import numpy as np
import soundfile
from conftest import voiced

ACTORS = [str(number) for number in range(1001, 1009)]
SENTENCES, EMOTIONS = ["DFA", "IEO", "TIE"], ["ANG", "HAP", "NEU"]
LEVELS = {("IEO", "ANG"): ["LO", "MD", "HI"], ("IEO", "HAP"): ["LO", "HI"]}
HOLES = ["1001_DFA_ANG_XX", "1004_TIE_NEU_XX", "1008_IEO_HAP_LO"]


def clip(speaker, content, emotion, take):
    """A buzz that trembles as much as its emotion."""
    wave = voiced(speaker, content, take, seconds=0.6)
    time = np.arange(len(wave)) / 16000
    return wave * (1 + 0.45 * emotion * np.sin(50 * time)) / 2


def make_corpus(folder):
    """Eight actors, some takes and holes, in CREMA-D's layout."""
    (folder / "AudioWAV").mkdir(parents=True)
    with open(folder / "VideoDemographics.csv", "w") as file:
        file.write("ActorID,Age,Sex,Race,Ethnicity\n")
        for actor in ACTORS:
            sex = "Female" if int(actor) % 2 else "Male"
            file.write(f"{actor},30,{sex},Asian,Not Hispanic\n")
    for cell in product(range(8), range(3), range(3)):
        actor, content, emotion = cell
        named = (SENTENCES[content], EMOTIONS[emotion])
        for take, level in enumerate(LEVELS.get(named, ["XX"])):
            name = "_".join([ACTORS[actor], *named, level])
            if name not in HOLES:
                path = folder / f"AudioWAV/{name}.wav"
                soundfile.write(path, clip(*cell, take), 16000)
    return folder
