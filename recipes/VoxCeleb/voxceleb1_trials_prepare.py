"""VoxCeleb1's verification test, from its folder as it is unpacked.

A. Nagrani, J. S. Chung, A. Zisserman, "VoxCeleb: a large-scale speaker
identification dataset", Interspeech 2017.
"""

from pathlib import Path

from speechbrain_ext.metrics.trials import read_trials
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv

# The cleaned list first: 37,611 trials; the original one has 37,720.
LISTS = ("veri_test2.txt", "veri_test.txt")
META = "vox1_meta.csv"
SPEAKER, GENDER = "VoxCeleb1 ID", "Gender"


def voxceleb_rows(folder, trials=None, meta=None):
    """Utterances of VoxCeleb1's test speakers, and the list of trials.

    Those of the speakers of the list are taken, also their utterances that
    are in no trial; so the folder may hold the development speakers too.

    Arguments
    ---------
    folder : str or Path
        Unpacked ``vox1_test_wav.zip``: ``wav/id10270/5r0dWxy17C8/00001.wav``,
        or what is in its ``wav``.
    trials : str or Path, optional
        Trial list. Default: ``veri_test2.txt`` (the cleaned one), else
        ``veri_test.txt``, in the folder or the one above.
    meta : str or Path, optional
        Tab-separated table of the speakers. Default: ``vox1_meta.csv`` in the
        folder or the one above, if it is there.

    Returns
    -------
    rows : list of dict
        Rows of a manifest: ``ID`` (as in the list, without suffix), ``wav``
        (relative to the folder), ``speaker`` and, with a table, ``gender``
        (``f`` or ``m``).
    trials : Path
        The list that was found.

    Raises
    ------
    InputError
        If there are no recordings, no list, utterances of the list are
        missing, or the table lacks a speaker; names what is missing and where
        it was looked for.

    Example
    -------
    >>> voxceleb_rows("nowhere")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: nowhere: no folders of speakers \
(id10270, ...) in it or in its wav/: give the unpacked VoxCeleb1 test folder
    """
    folder = Path(folder)
    root = folder / "wav" if (folder / "wav").is_dir() else folder
    if not any(root.glob("id[0-9]*")):
        raise InputError(
            f"{folder}: no folders of speakers (id10270, ...) in it or in its "
            "wav/: give the unpacked VoxCeleb1 test folder"
        )
    # Of .../wav too: its lists may lie beside or above that level.
    places = (folder, folder.absolute().parent)
    trials = _find(trials, LISTS, places)
    if trials is None:
        raise InputError(
            f"No {' or '.join(LISTS)} in {places[0]} or {places[1]}: give "
            "--trials LIST (VoxCeleb1's test list)"
        )
    listed = _listed(trials)
    rows = []
    for speaker in sorted({name.split("/")[0] for name in listed}):
        for path in sorted((root / speaker).glob("*/*.wav")):
            name = path.relative_to(root).with_suffix("").as_posix()
            wav = path.relative_to(folder).as_posix()
            rows.append({"ID": name, "wav": wav, "speaker": speaker})
    missing = sorted(listed - {row["ID"] for row in rows})
    if missing:
        raise InputError(
            f"{root}: {len(missing)} of {len(listed)} utterances of {trials} "
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
    return rows, trials


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
