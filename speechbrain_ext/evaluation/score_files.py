"""Scores of trials and predicted keywords, in files for other tools."""

import shutil

from speechbrain_ext.metrics.trials import write_trials
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import write_csv, write_lines
from speechbrain_ext.utils.hparams import run_label

FORMS = ("voxceleb", "kaldi")
KINDS = ("nontarget", "target")


def check_ids(ids):
    """Refuse names with blanks, which these forms cannot have.

    Arguments
    ---------
    ids : sequence of str
        Names of utterances.

    Raises
    ------
    InputError
        With the first one.

    Example
    -------
    >>> check_ids(["a", "b c"])
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: score_files: the ID 'b c' has a...
    """
    for key in ids:
        if len(key.split()) != 1:
            raise InputError(
                f"score_files: the ID '{key}' has a blank, which files of "
                "scores cannot have: give other IDs, or no score_files"
            )


def write_scores(folder, verification, ids, forms=FORMS):
    """The score of every trial, a file for each subspace and condition.

    In VoxCeleb's form, ``scores/<list>_<condition>/<system>-<subspace>.txt``
    with the lines ``label enrol.wav test.wav score``; in Kaldi's,
    ``<system>-<subspace>.scores`` with ``enrol test score`` beside ``trials``
    with ``enrol test target`` (or ``nontarget``). Seeds stand in the names.
    What is there of the list and condition goes: it may be of other trials.

    Arguments
    ---------
    folder : str or Path
        Where to.
    verification : speechbrain_ext.evaluation.tasks.Verification
        After its call.
    ids : sequence of str
        [N] name of each utterance.
    forms : sequence of str
        Which of the forms; none of them only takes away what is there.

    Example
    -------
    >>> import numpy as np
    >>> from speechbrain_ext.evaluation.results import Subspace
    >>> from speechbrain_ext.evaluation.tasks import Embedded, Verification
    >>> from speechbrain_ext.metrics.trials import generate_trials
    >>> task = Verification("speaker", generate_trials(list("aab")))
    >>> vectors = {Subspace("x", "speaker"): np.eye(2)[[0, 0, 1]]}
    >>> rows = task(Embedded("recorded", {"test": vectors}))
    >>> folder = getfixture("tmp_path")
    >>> write_scores(folder, task, ["u1", "u2", "u3"])
    >>> path = folder / "scores" / "trials_recorded" / "x-speaker.txt"
    >>> path.read_text().splitlines()[0]
    '1 u1.wav u2.wav 1'
    """
    trials = verification.trials
    places = {
        condition: f"{folder}/scores/{verification.stem}_{condition}"
        for condition in verification.scores
    }
    for place in places.values():
        shutil.rmtree(place, ignore_errors=True)
    if not forms:  # half a million numbers as text take a while
        return

    def write(path, column):
        """Lines of Kaldi's form; one at a time, as there may be 10^7."""
        pairs = zip(trials.enrol, trials.test, column, strict=True)
        write_lines(path, (f"{ids[e]} {ids[t]} {one}" for e, t, one in pairs))

    for condition, place in places.items():
        if "kaldi" in forms:
            write(f"{place}/trials", (KINDS[label] for label in trials.label))
        for origin, one in verification.scores[condition].items():
            name = run_label(origin.system, origin.subspace, str(origin.seed))
            if "kaldi" in forms:
                written = (f"{score:.7g}" for score in one)
                write(f"{place}/{name}.scores", written)
            if "voxceleb" in forms:
                written = (f"{score:.7g}" for score in one)
                write_trials(f"{place}/{name}.txt", trials, ids, written)


def write_predictions(folder, keywords, ids):
    """For each utterance and subspace the keyword that it was taken for.

    ``keywords_<condition>.csv`` with the utterance, its keyword, and a column
    for each subspace and seed.

    Arguments
    ---------
    folder : str or Path
        Where to.
    keywords : speechbrain_ext.evaluation.tasks.Keywords
        After its call.
    ids : sequence of str
        [N] name of each utterance.

    Example
    -------
    >>> import numpy as np
    >>> from speechbrain_ext.evaluation.results import Subspace
    >>> from speechbrain_ext.evaluation.tasks import Embedded, Keywords
    >>> task = Keywords("content", list("ab"), list("ab"), list("xy"))
    >>> vectors = {Subspace("pca", "content", seed=1): np.eye(2)}
    >>> embedded = {"test": vectors, "training": vectors}
    >>> rows = task(Embedded("recorded", embedded))
    >>> folder = getfixture("tmp_path")
    >>> write_predictions(folder, task, ["u1", "u2"])
    >>> (folder / "keywords_recorded.csv").read_text().splitlines()
    ['ID,content,pca content 1', 'u1,a,a', 'u2,b,b']
    """
    for condition, predicted in keywords.predicted.items():
        names = {o: f"{o.label} {o.seed}".strip() for o in predicted}
        rows = [
            {"ID": key, keywords.factor: value}
            | {name: predicted[origin][n] for origin, name in names.items()}
            for n, (key, value) in enumerate(zip(ids, keywords.values))
        ]
        write_csv(f"{folder}/keywords_{condition}.csv", rows)
