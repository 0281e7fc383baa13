"""VoxCeleb1's verification tests, from its folder as it is unpacked.

A. Nagrani, J. S. Chung, A. Zisserman, "VoxCeleb: a large-scale speaker
identification dataset", Interspeech 2017. The lists over all its speakers (E),
also within nationality and gender (H), are those of J. S. Chung, A. Nagrani, A.
Zisserman, "VoxCeleb2: deep speaker recognition", Interspeech 2018.
"""

from pathlib import Path

from speechbrain.utils.logger import get_logger
from speechbrain_ext.metrics.trials import read_trials
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv

logger = get_logger(__name__)

# VoxCeleb1-O, -E and -H, of each the cleaned list first: O has 37,611 trials
# then, and 37,720 before.
LISTS = {
    "O": ("veri_test2.txt", "veri_test.txt"),
    "E": ("list_test_all2.txt", "list_test_all.txt"),
    "H": ("list_test_hard2.txt", "list_test_hard.txt"),
}
META = "vox1_meta.csv"
SPEAKER, GENDER = "VoxCeleb1 ID", "Gender"


def voxceleb_rows(folder, trials=None, meta=None, tests=tuple(LISTS)):
    """Utterances of VoxCeleb1, and the lists of trials on them.

    Those of the speakers of the lists are taken, also their utterances that
    are in no trial; so the folder may hold other speakers too. O is over the
    test speakers, E and H are over all 1,251.

    Arguments
    ---------
    folder : str or Path
        Unpacked archives: ``wav/id10270/5r0dWxy17C8/00001.wav``, or what is in
        its ``wav``.
    trials : list of str or Path, optional
        Trial lists. Default: of the tests those that are in the folder or the
        one above and whose speakers are all here.
    meta : str or Path, optional
        Tab-separated table of the speakers. Default: ``vox1_meta.csv`` in the
        folder or the one above, if it is there.
    tests : sequence of str
        Some of O, E and H.

    Returns
    -------
    rows : list of dict
        Rows of a manifest: ``ID`` (as in the list, without suffix), ``wav``
        (relative to the folder), ``speaker`` and, with a table, ``gender``
        (``f`` or ``m``).
    trials : list of Path
        The lists that were found.

    Raises
    ------
    InputError
        If there are no recordings, no list, utterances of a list are
        missing, or the table lacks a speaker; names what is missing and where
        it was looked for.

    Example
    -------
    >>> voxceleb_rows("nowhere")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: nowhere: no folders of speakers \
(id10270, ...) in it or in its wav/: give the unpacked VoxCeleb1 folder
    """
    folder = Path(folder)
    root = folder / "wav" if (folder / "wav").is_dir() else folder
    if not any(root.glob("id[0-9]*")):
        raise InputError(
            f"{folder}: no folders of speakers (id10270, ...) in it or in its "
            "wav/: give the unpacked VoxCeleb1 folder"
        )
    # Of .../wav too: its lists may lie beside or above that level.
    places = (folder, folder.absolute().parent)
    names = [LISTS[test] for test in tests]
    listed = _lists(trials, names, places, root)
    rows = []
    every = set().union(*listed.values())
    for speaker in _speakers(every):
        for path in sorted((root / speaker).glob("*/*.wav")):
            name = path.relative_to(root).with_suffix("").as_posix()
            wav = path.relative_to(folder).as_posix()
            rows.append({"ID": name, "wav": wav, "speaker": speaker})
    there = {row["ID"] for row in rows}
    for path, names in listed.items():
        missing = sorted(names - there)
        if missing:
            raise InputError(
                f"{root}: {len(missing)} of {len(names)} utterances of {path} "
                f"are not there, first {missing[0]}.wav"
            )
    meta = _find(meta, (META,), places)
    if meta is not None:
        genders = _genders(meta)
        unknown = sorted({row["speaker"] for row in rows} - set(genders))
        if unknown:
            raise InputError(
                f"{meta}: no gender of {len(unknown)} speakers, first "
                f"{unknown[0]}"
            )
        for row in rows:
            row["gender"] = genders[row["speaker"]]
    return rows, list(listed)


def _lists(trials, lists, places, root):
    """List -> names of its utterances, of those that are given or found."""
    if trials is not None:
        found = [_find(path, (), places) for path in trials]
        return {path: _listed(path) for path in found}
    found = filter(None, (_find(None, names, places) for names in lists))
    listed = {path: _listed(path) for path in found}
    if not listed:
        raise InputError(
            f"No {' or '.join(sum(lists, ()))} in {places[0]} or {places[1]}: "
            "give --trials LIST (VoxCeleb1's test list)"
        )
    whole = {
        path: names
        for path, names in listed.items()
        if all((root / speaker).is_dir() for speaker in _speakers(names))
    }
    for path in listed:
        if whole and path not in whole:
            logger.warning(
                f"{path} is left out: recordings of its speakers are not in "
                f"{root}"
            )
    return whole or listed


def _speakers(names):
    """Speakers of utterances, sorted."""
    return sorted({name.split("/")[0] for name in names})


def _find(given, names, places):
    """A given file, or the first of some names in some places."""
    if given is not None:
        if not Path(given).is_file():
            raise InputError(f"No file {given}")
        return Path(given)
    found = (place / name for name in names for place in places)
    return next((path for path in found if path.is_file()), None)


def _listed(path):
    """Names in a trial list, without suffix."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    names = {
        name.removesuffix(".wav") for line in lines for name in line.split()[1:]
    }
    read_trials(path, sorted(names))  # which checks its form
    return names


def _genders(path):
    """Speaker -> f or m."""
    rows = read_csv(path, "\t")
    columns = list(rows[0]) if rows else []
    if not {SPEAKER, GENDER} <= set(columns):
        raise InputError(
            f"{path}: expected a tab-separated table with the columns "
            f"'{SPEAKER}' and '{GENDER}', got {columns}"
        )
    return {row[SPEAKER]: row[GENDER] for row in rows if row[GENDER]}
