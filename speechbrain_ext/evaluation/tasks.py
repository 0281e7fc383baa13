"""What a subspace is asked, a class per task; for leakage see
:mod:`speechbrain_ext.evaluation.leakage`.

A task is made once, with the labels of the utterances, and called for each
condition with the vectors of all systems: it returns rows of the one table of
:mod:`speechbrain_ext.evaluation.results`. Each has a name and a main measure.
Several processes measure some systems each, and all have the rows of all.
Nothing says that a factor is the speaker or the content.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechbrain_ext.evaluation.results import (
    find_reference,
    make_row,
    measure_rows,
)
from speechbrain_ext.metrics.calibration import actual_dcf, cllr
from speechbrain_ext.metrics.keywords import (
    check_classes,
    keyword_classification,
    mcnemar,
    standardised_regression,
)
from speechbrain_ext.metrics.retrieval import nearest_value
from speechbrain_ext.metrics.scoring import cosine_scoring
from speechbrain_ext.metrics.uncertainty import SpeakerResamples
from speechbrain_ext.metrics.verification import group_error_rates, sort_trials
from speechbrain_ext.nnet.distributed import deal
from speechbrain_ext.utils.errors import InputError


class Embedded(NamedTuple):
    """Vectors of all systems in one condition.

    Arguments
    ---------
    condition : str
        ``recorded`` or ``channels``.
    vectors : dict
        Use of the utterances -> Subspace -> [N, D]: ``test``, and where a task
        needs them ``training`` (of keywords) and ``cohort``.
    features : dict
        (encoder, layers) -> [N, layers, dim] pooled features of the test
        utterances, for the controls of leakage.
    """

    condition: str
    vectors: dict
    features: dict = {}


def run_tasks(tasks, embedded, **columns):
    """Rows of all tasks in one condition, and the dimensions.

    Arguments
    ---------
    tasks : list
        Tasks of this module, or others with the same call.
    embedded : Embedded
        The vectors.
    **columns : object
        Further columns of all rows.

    Returns
    -------
    list of dict

    Example
    -------
    >>> from speechbrain_ext.evaluation.results import Subspace
    >>> from speechbrain_ext.metrics.trials import generate_trials
    >>> task = Verification("speaker", generate_trials(list("aabb")))
    >>> vectors = {Subspace("x"): np.eye(2)[[0, 0, 1, 1]]}
    >>> rows = run_tasks([task], Embedded("recorded", {"test": vectors}))
    >>> [(row["measure"], row["value"]) for row in rows][:2]
    [('dimension', 2.0), ('eer', 0.0)]
    """
    test = embedded.vectors["test"]
    rows = measure_rows(
        {origin: vectors.shape[-1] for origin, vectors in test.items()},
        measure="dimension",
    )
    for task in tasks:
        rows += [row | {"task": task.name} for row in task(embedded)]
    return [row | columns | {"condition": embedded.condition} for row in rows]


class Task:
    """Base class: intervals and differences of a measure, as rows.

    Arguments
    ---------
    factor : str
        What is to be told.
    speakers : sequence
        [N] speakers of the test utterances (or values of another factor),
        which are resampled for intervals.
    resamples, seed : int
        Draws of the speakers (0: no intervals), and their seed.
    reference : str
        Label of the subspace that differences are taken to. Default: the
        first.
    rows : array of int, optional
        Utterances whose speakers are drawn. Default: all.
    """

    name = measure = ""

    def __init__(
        self, factor, speakers, resamples=0, seed=0, reference=None, rows=None
    ):
        self.factor, self.reference = factor, reference
        self.columns = {"target": factor}
        self.resamples = resamples and SpeakerResamples(
            speakers, resamples, seed, rows
        )

    def rows(self, measure, values, draws=None, **columns):
        """Rows of one measure, from Subspace -> value [and its draws]."""
        columns = self.columns | columns | {"measure": measure}
        return measure_rows(values, draws, self.reference, **columns)

    def accuracies(self, correct, **columns):
        """Rows of accuracies, from which utterances were right."""
        draw = self.resamples and self.resamples.accuracy
        values = {origin: np.mean(right) for origin, right in correct.items()}
        draws = draw and {origin: draw(r) for origin, r in correct.items()}
        return self.rows("accuracy", values, draws, **columns)

    def constant(self, measure, value, **columns):
        """A row of a number that is the same for all subspaces."""
        columns = self.columns | columns
        return make_row(measure=measure, value=value, **columns)


class Verification(Task):
    """Do two utterances share the value of a factor?

    Arguments
    ---------
    factor : str
        Such as the speaker.
    trials : Trials
        On the test utterances.
    values : sequence
        [N] values of the factor, which are resampled for intervals. Default:
        no intervals.
    groups : list of array
        Each [T], a kind of each trial, such as genders; each kind gets rows.
    scoring : callable
        ``scoring(vectors, trials, cohort) -> [T]``, see
        :mod:`speechbrain_ext.metrics.scoring`.
    backend : str
        Its name in the table.
    cohort : sequence
        [M] values of the factor of the cohort, where the scoring needs one.
    list_name : str
        Of the trials, in the table.
    thresholds : dict
        (system, seed, subspace) -> threshold that an export decides by; those
        that are known get rows of what they do here.
    calibration : dict
        (system, seed, subspace) -> (scale, offset) that make a score a natural
        log-likelihood ratio, of exports that are calibrated. What is known
        gets rows of what the ratios are worth.
    ratios : bool
        Whether the scoring gives such ratios itself.
    **options : object
        ``resamples``, ``seed`` and ``reference`` of :class:`Task`.

    Attributes
    ----------
    scores : dict
        Condition -> Subspace -> [T] scores, for plots and files.
    stem : str
        What names of files call the list.
    """

    name, measure = "verification", "eer"

    def __init__(
        self,
        factor,
        trials,
        values=None,
        groups=(),
        scoring=cosine_scoring,
        backend="cosine",
        cohort=None,
        list_name="",
        thresholds=None,
        calibration=None,
        ratios=False,
        **options,
    ):
        # Speakers in no trial would dilute the draws.
        in_trials = np.union1d(trials.enrol, trials.test)
        super().__init__(factor, values, rows=in_trials, **options)
        self.columns |= {"backend": backend, "list": list_name}
        self.stem = Path(list_name).stem or "trials"
        self.trials, self.groups = trials, groups
        self.scoring, self.cohort = scoring, cohort
        self.scores, self.thresholds = {}, thresholds or {}
        self.calibration, self.ratios = calibration or {}, ratios

    def __call__(self, embedded):
        """Rows of all subspaces; rates at the equal error threshold too."""
        test, count = embedded.vectors["test"], len(self.trials.label)
        found = deal(partial(self._measure, embedded), test)
        scores, draws, eers, rates, costs, least = (
            dict(zip(found, values)) for values in zip(*found.values())
        )
        self.scores[embedded.condition] = scores
        rows = self.rows("eer", eers, self.resamples and draws, n=count)
        rows += self.rows("min_dcf", costs, n=count)
        rows += self.decisions(scores)
        # Of all scores: it is fitted to these trials.
        rows += self.rows("min_cllr", least, n=count)
        rows += self.calibrated(scores)
        # A group has the same trials in all subspaces.
        for group, first in next(iter(rates.values())).items():
            both = first["targets"] + first["nontargets"]
            counts = {"eer": both, "threshold": both}
            counts["miss"] = first["targets"]
            counts["false_alarm"] = first["nontargets"]
            for measure, count in counts.items():
                # The EER of all trials has its interval already.
                if first[measure] is None or (measure == "eer" and not group):
                    continue
                found = {o: one[group][measure] for o, one in rates.items()}
                rows += self.rows(measure, found, group=group, n=count)
        return rows

    def _measure(self, embedded, origin):
        """What is of one subspace alone: scores, draws, EER, rates, costs."""
        others, label = None, self.trials.label
        if self.cohort is not None:
            others = embedded.vectors["cohort"][origin], self.cohort
        vectors = embedded.vectors["test"][origin]
        scores = self.scoring(vectors, self.trials, others)
        trials = sort_trials(scores, label)
        threshold = trials.equal_error_rate()[1]
        rates = {"": trials.rates(threshold)}
        for groups in self.groups:
            rates |= group_error_rates(scores, label, groups, threshold)
        draws = self.resamples and self.resamples.eer(scores, self.trials)
        costs = trials.min_dcf(), trials.min_cllr()
        return scores, draws, rates[""]["eer"], rates, *costs

    def decisions(self, scores):
        """Rows of the errors that the exports' own thresholds make."""
        rows, targets = [], np.asarray(self.trials.label) == 1
        for origin, one in scores.items():
            key = origin.system, origin.seed, origin.subspace
            if key not in self.thresholds:
                continue
            accepted = np.asarray(one) > self.thresholds[key]
            for measure, wrong in (
                ("false_accepts", accepted[~targets]),
                ("false_rejects", ~accepted[targets]),
            ):
                found = {origin: float(np.mean(wrong))}
                rows += self.rows(measure, found, n=len(wrong))
        return rows

    def calibrated(self, scores):
        """Rows of how good log-likelihood ratios are, where they are known."""
        label, known = self.trials.label, {}
        for origin, one in scores.items():
            key = origin.system, origin.seed, origin.subspace
            if self.ratios:
                known[origin] = one
            elif key in self.calibration:
                scale, offset = self.calibration[key]
                known[origin] = scale * np.asarray(one) + offset
        rows = []
        for name, measure in (("cllr", cllr), ("actual_dcf", actual_dcf)):
            found = {o: measure(one, label) for o, one in known.items()}
            rows += self.rows(name, found, n=len(label))
        return rows


class ContentRetrieval(Task):
    """Does the nearest neighbour of another speaker say the same?

    Arguments
    ---------
    factor : str
        Whose value the neighbour should share: the content.
    values : sequence
        [N] its values.
    speakers : sequence
        [N] values of the factor that it may not share.
    **options : object
        ``resamples``, ``seed`` and ``reference`` of :class:`Task`.

    Raises
    ------
    InputError
        If no value occurs with two speakers.
    """

    name, measure = "content", "accuracy"

    def __init__(self, factor, values, speakers, **options):
        super().__init__(factor, speakers, **options)
        pairs = set(zip(values, speakers, strict=True))
        if len({value for value, _ in pairs}) == len(pairs):
            raise InputError(
                f"content retrieval: no value of {factor} is said by two "
                "speakers, so that no neighbour can be right"
            )
        self.values, self.speakers = values, speakers
        self.columns["n"] = len(values)

    def __call__(self, embedded):
        """Rows of all subspaces."""
        test = embedded.vectors["test"]
        correct = deal(
            lambda o: nearest_value(test[o], self.values, self.speakers), test
        )
        rows = self.accuracies(correct, backend="cosine")
        return [*rows, self.constant("chance", 1 / len(set(self.values)))]


class Keywords(Task):
    """Does a linear classifier tell the words of other speakers?

    Arguments
    ---------
    factor : str
        The factor that is classified: the content.
    training, values : sequence
        [M] and [N] its values, of the training and the test utterances.
    speakers : sequence
        [N] speakers of the test.
    make_classifier : callable
        See :func:`~speechbrain_ext.metrics.keywords.keyword_classification`.
    backend : str
        Its name in the table.
    **options : object
        ``resamples``, ``seed`` and ``reference`` of :class:`Task`.

    Attributes
    ----------
    predicted : dict
        Condition -> Subspace -> [N] keywords, for files.
    """

    name, measure = "keywords", "accuracy"

    def __init__(
        self,
        factor,
        training,
        values,
        speakers,
        make_classifier=standardised_regression,
        backend="logistic regression",
        **options,
    ):
        super().__init__(factor, speakers, **options)
        check_classes(training, values)
        self.training, self.values = training, np.asarray(values)
        self.make_classifier, self.backend = make_classifier, backend
        self.columns["n"] = len(values)
        self.predicted = {}

    def __call__(self, embedded):
        """Rows of all subspaces, with the recall of each word."""
        training, test = (embedded.vectors[use] for use in ("training", "test"))
        found = deal(
            lambda origin: keyword_classification(
                training[origin],
                self.training,
                test[origin],
                self.values,
                self.make_classifier,
            ),
            test,
        )
        named = {"backend": self.backend}
        predicted = {o: one["predicted"] for o, one in found.items()}
        self.predicted[embedded.condition] = predicted
        correct = {o: words == self.values for o, words in predicted.items()}
        rows = self.accuracies(correct, **named) + self.tests(correct, **named)
        for measure in ("balanced_accuracy", "macro_f1"):
            each = {origin: one[measure] for origin, one in found.items()}
            rows += self.rows(measure, each, **named)
        first = next(iter(found.values()))
        counts = Counter(map(str, self.values))
        for word in first["recall"]:
            each = {
                origin: one["recall"][word] for origin, one in found.items()
            }
            columns = named | {"group": word, "n": counts[word]}
            rows += self.rows("recall", each, **columns)
        return rows + [
            self.constant(name, first[name]) for name in ("chance", "majority")
        ]

    def tests(self, correct, **columns):
        """Rows of McNemar's test of each subspace against the reference.

        Of a system with several seeds, those of one seed are compared, or the
        first.
        """
        label = find_reference(correct, self.reference).label
        bases = {
            o.seed: right for o, right in correct.items() if o.label == label
        }
        first = next(iter(bases.values()))
        found = {
            origin: mcnemar(right, bases.get(origin.seed, first))
            for origin, right in correct.items()
            if origin.label != label
        }
        columns = self.columns | columns | {"measure": "mcnemar_p"}
        return [make_row(o, value=p, **columns) for o, p in found.items()]
