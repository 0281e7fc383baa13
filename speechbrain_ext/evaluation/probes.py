"""What can be read from a subspace, whether or not cosine shows it.

A low cosine score between different speakers does not say that a content
subspace is free of the speaker: a linear classifier may still find it. The
leakage matrix asks that for every factor in every subspace, beside chance and
beside projections of the same dimension that were never trained.
"""

import numpy as np
from scipy.linalg import solve
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import GaussianRandomProjection

from speechbrain_ext.evaluation.arrays import group_sums, to_codes, to_matrix
from speechbrain_ext.evaluation.closed_form import within_covariance
from speechbrain_ext.evaluation.report import align_columns, format_number
from speechbrain_ext.evaluation.uncertainty import format_interval
from speechbrain_ext.evaluation.verification import (
    equal_error_rate,
    generate_trials,
)
from speechbrain_ext.utils.errors import InputError

# Of a wider ``input`` the leading principal components are probed; ``PCA d``
# and ``random d`` always project all dimensions.
MAX_DIMS = 1000
MAX_TRIALS = 100_000


class LdaProbe:
    """Linear discriminant classifier with one shrunk covariance.

    A linear probe in closed form: as accurate as a logistic regression and,
    with many classes and dimensions, many times faster. Unlike scikit-learn's
    it shrinks the pooled covariance, not that of each class, of which a grid
    has only a few utterances.

    Example
    -------
    >>> probe = LdaProbe().fit(np.array([[0], [1], [5], [6.0]]), [0, 0, 1, 1])
    >>> probe.predict(np.array([[2], [4.0]])).tolist()
    [0, 1]
    """

    def fit(self, vectors, values):
        """Fit to vectors [N, D] and their values [N]; returns itself."""
        self.classes_, codes = to_codes(values, len(vectors), "values")
        centre = vectors.mean(axis=0)
        _, means, covariance = within_covariance(vectors - centre, codes)
        self.weight = solve(covariance, means.T, assume_a="pos")
        self.bias = -np.sum(means.T * self.weight, axis=0) / 2
        self.bias -= centre @ self.weight
        return self

    def predict(self, vectors):
        """Value of the nearest class mean for each of the vectors [N, D]."""
        scores = vectors @ self.weight + self.bias
        return self.classes_[scores.argmax(axis=1)]


def linear_probe(
    embeddings, values, groups, folds=5, seed=0, make_classifier=LdaProbe
):
    """Accuracy of a linear classifier on groups that it has not seen.

    Arguments
    ---------
    embeddings : array or torch.Tensor
        [N, D], one row an utterance.
    values : sequence
        [N] value of the factor to read (the speaker).
    groups : sequence
        [N] value of the factor that training and test may not share (the
        content).
    folds : int
        Folds of the cross-validation over the groups; at most one a group.
    seed : int
        Seed of the assignment of groups to folds.
    make_classifier : callable
        Returns a new classifier with ``fit`` and ``predict``, such as
        scikit-learn's; inputs are standardised with the training fold.

    Returns
    -------
    result : dict
        ``accuracy``, ``folds`` (accuracy of each), ``chance`` (1 / number of
        values), ``majority`` (share of the most frequent value) and
        ``correct``, a bool array [N].

    Raises
    ------
    InputError
        On NaN embeddings, with fewer than two values or groups, or if no
        value occurs in two groups.

    Example
    -------
    >>> speakers, contents = np.divmod(np.arange(20), 5)
    >>> result = linear_probe(np.eye(4)[speakers], speakers, contents)
    >>> result["accuracy"], result["chance"]
    (1.0, 0.25)
    """
    vectors = to_matrix(embeddings)
    names, values = to_codes(values, len(vectors), "values")
    group_names, groups = to_codes(groups, len(vectors), "groups")
    if len(names) < 2 or len(group_names) < 2:
        raise InputError(
            "a probe needs at least 2 values and 2 groups to split by, got "
            f"{len(names)} and {len(group_names)}"
        )
    cells = np.unique(values * len(group_names) + groups)
    if np.bincount(cells // len(group_names)).max() < 2:
        raise InputError("a probe needs a value that occurs in 2 groups")
    folds = min(folds, len(group_names))
    if folds < 2:
        raise InputError(f"a probe needs 2 folds or more, got {folds}")
    shuffled = np.random.default_rng(seed).permutation(len(group_names))
    fold = shuffled[groups] % folds
    correct = np.empty(len(vectors), dtype=bool)
    for number in range(folds):
        test = fold == number
        scaler = StandardScaler().fit(vectors[~test])
        classifier = make_classifier()
        classifier.fit(scaler.transform(vectors[~test]), values[~test])
        found = classifier.predict(scaler.transform(vectors[test]))
        correct[test] = found == values[test]
    return {
        "accuracy": float(correct.mean()),
        "folds": [float(correct[fold == k].mean()) for k in range(folds)],
        "chance": 1 / len(names),
        "majority": float(np.bincount(values).max() / len(values)),
        "correct": correct,
    }


def control_projections(features, dims, seed=0):
    """Untrained projections of the input: what dimension alone explains.

    Arguments
    ---------
    features : array or torch.Tensor
        [N, layers, dim] or [N, D] pooled features.
    dims : iterable of int
        Dimensions of the subspaces to be matched.
    seed : int
        Seed of the random projections.

    Returns
    -------
    controls : dict
        ``input``: the features, flattened and standardised (of more than 1000
        dimensions their leading principal components, 1000 or all there are);
        and for each dimension d ``PCA d`` and ``random d``, projections of all
        standardised dimensions. Where the features have a rank below d, the
        principal components have, and are named by, that rank.

    Example
    -------
    >>> controls = control_projections(np.eye(9), [4, 2])
    >>> {name: array.shape[1] for name, array in controls.items()}
    {'input': 9, 'PCA 4': 4, 'random 4': 4, 'PCA 2': 2, 'random 2': 2}
    >>> list(control_projections(np.eye(9, 30), [16, 24]))
    ['input', 'PCA 8', 'random 16', 'random 24']
    """
    if hasattr(features, "flatten") and len(features.shape) == 3:
        features = features.reshape(len(features), -1)
    vectors = StandardScaler().fit_transform(to_matrix(features, "features"))
    dims = list(dict.fromkeys(int(d) for d in dims))
    leading = min(*vectors.shape, max(MAX_DIMS, *dims))
    pca = PCA(leading, random_state=seed).fit(vectors)
    variance = pca.explained_variance_
    rank = max(1, np.sum(variance > 1e-10 * variance[0]))  # without rounding
    components = pca.transform(vectors)[:, :rank]
    wide = vectors.shape[1] > MAX_DIMS
    controls = {"input": components[:, :MAX_DIMS] if wide else vectors}
    for d in dims:
        controls[f"PCA {min(d, rank)}"] = components[:, :d]
        projection = GaussianRandomProjection(d, random_state=seed)
        controls[f"random {d}"] = projection.fit_transform(vectors)
    return controls


def variance_shares(
    embeddings, speakers, contents, names=("speaker", "content")
):
    """Two-way decomposition of the variance of a subspace.

    Sums of squares over all dimensions, as in a two-way analysis of variance:
    the effect of each factor beyond the other, their interaction (cell means
    less the additive model) and what varies within cells. Shares are
    fractions of the total and descriptive: noise also has some, on average
    its degrees of freedom over N - 1, which is given beside them.

    On an incomplete or unbalanced grid the effect of a factor is what it adds
    to the other one (type II), and ``confounded`` is what both explain alike;
    on a complete one with as many takes in all cells it is 0. The shares with
    ``confounded`` sum to 1.

    Arguments
    ---------
    embeddings : array or torch.Tensor
        [N, D], one row an utterance.
    speakers : sequence
        [N] value of the first factor.
    contents : sequence
        [N] value of the second factor.
    names : tuple of str
        What to call the two factors in the result.

    Returns
    -------
    shares : dict
        One key a factor, ``interaction``, ``residual``,
        ``interaction_and_residual``, ``confounded`` and ``chance``, a dict of
        the shares expected of noise. With one take a cell interaction and
        residual cannot be told apart: both are None and only their sum is
        known. All are None when the embeddings do not vary.

    Raises
    ------
    InputError
        On NaN embeddings, or with a factor of one value.

    Example
    -------
    >>> speakers, contents = np.divmod(np.arange(12), 4)
    >>> shares = variance_shares(np.eye(3)[speakers], speakers, contents)
    >>> round(shares["speaker"], 6), round(shares["content"], 6)
    (1.0, 0.0)
    """
    vectors = to_matrix(embeddings).astype(np.float64)
    count = len(vectors)
    codes = [
        to_codes(labels, count, name)[1]
        for labels, name in zip((speakers, contents), names)
    ]
    for name, code in zip(names, codes):
        if code.max() < 1:
            raise InputError(f"factor '{name}' has one value only")
    vectors = vectors - vectors.mean(axis=0)
    cells, cell = np.unique(codes[0] * (codes[1].max() + 1) + codes[1],
                            return_inverse=True)  # fmt: skip
    total = np.sum(vectors**2)
    alone = [_explained(vectors, code) for code in codes]
    both, rank = _additive(vectors, *codes)
    in_cells = _explained(vectors, cell)
    sizes = [code.max() + 1 for code in codes]
    parts = {
        names[0]: (both - alone[1], rank - sizes[1]),
        names[1]: (both - alone[0], rank - sizes[0]),
        "interaction": (in_cells - both, len(cells) - rank),
        "residual": (total - in_cells, count - len(cells)),
        "interaction_and_residual": (total - both, count - rank),
        "confounded": (alone[0] + alone[1] - both, sum(sizes) - 1 - rank),
    }
    if len(cells) == count:
        parts["interaction"] = parts["residual"] = (None, None)
    shares, chance = {}, {}
    for name, (squares, freedom) in parts.items():
        known = squares is not None
        shares[name] = float(squares / total) if known and total else None
        chance[name] = float(freedom / (count - 1)) if known else None
    return {**shares, "chance": chance}


def _explained(centred, code):
    """Sum of squares of the group means."""
    return np.sum(group_sums(centred, code) ** 2 / np.bincount(code)[:, None])


def _additive(centred, one, other):
    """Sum of squares of an additive model of two factors, and its rank."""
    if one.max() > other.max():
        one, other = other, one
    # Take the larger factor out of everything; solve for the smaller one.
    counts = np.bincount(other)
    table = np.zeros((one.max() + 1, len(counts)))
    np.add.at(table, (one, other), 1)
    sums = group_sums(centred, other)
    right = group_sums(centred, one) - (table / counts) @ sums
    normal = np.diag(table.sum(axis=1)) - (table / counts) @ table.T
    inverse = np.linalg.pinv(normal, rcond=1e-9, hermitian=True)
    rank = np.linalg.matrix_rank(normal, tol=1e-9 * len(one), hermitian=True)
    explained = np.sum(sums**2 / counts[:, None])
    return explained + np.sum(right * (inverse @ right)), rank + len(counts)


def linear_cka(x, y):
    """Linear centred kernel alignment: do two subspaces hold the same?

    S. Kornblith et al., "Similarity of neural network representations
    revisited", ICML 2019. It is biased upwards when there are few utterances
    for the number of dimensions.

    Arguments
    ---------
    x : array or torch.Tensor
        [N, D1].
    y : array or torch.Tensor
        [N, D2], the same utterances.

    Returns
    -------
    cka : float
        From 0 (uncorrelated) to 1 (equal up to rotation and scale); NaN when
        one of them does not vary.

    Raises
    ------
    InputError
        On NaN values or different numbers of rows.

    Example
    -------
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(linear_cka(x, 2 * x[:, ::-1] + 1), 6)
    1.0
    """
    return cka_table({"x": x, "y": y})["x"]["y"]


def cka_table(subspaces):
    """:func:`linear_cka` of all pairs of some subspaces.

    Arguments
    ---------
    subspaces : dict
        Name -> [N, D], the same utterances.

    Returns
    -------
    table : dict
        Name -> name -> linear CKA.

    Raises
    ------
    InputError
        On NaN values or different numbers of rows.

    Example
    -------
    >>> cka_table({"x": np.eye(3), "y": -np.eye(3)})["y"]
    {'x': 1.0, 'y': 1.0}
    """
    centred = {n: to_matrix(v).astype(np.float64) for n, v in subspaces.items()}
    rows = list(dict.fromkeys(len(v) for v in centred.values()))
    if len(rows) > 1:
        raise InputError(f"{rows[0]} and {rows[1]} utterances to compare")
    centred = {n: v - v.mean(axis=0) for n, v in centred.items()}
    norms = {n: np.linalg.norm(v.T @ v) for n, v in centred.items()}
    table = {name: {} for name in centred}
    names = list(centred)
    for i, one in enumerate(names):
        for other in names[: i + 1]:
            product = norms[one] * norms[other]
            cross = np.linalg.norm(centred[one].T @ centred[other])
            cka = float(min(1.0, cross**2 / product)) if product else np.nan
            table[one][other] = table[other][one] = cka
    return {one: {n: row[n] for n in names} for one, row in table.items()}


def leakage_report(
    subspaces, factors, features=None, folds=5, seed=0, resamples=None
):
    """The leakage matrix: every factor read from every subspace.

    Each factor has a *group factor*, the first of the other ``factors``: of
    (speaker, content, style) speaker is grouped by content, content and style
    by speaker. A probe is tested on groups that it was not trained on, and
    trials pair different groups, so that neither gets better for what cells
    of the two factors share. Any further factor is not held apart: the probe
    of style, tested on other speakers, knows cells of content and style. Put
    content first to test it on other contents.

    Arguments
    ---------
    subspaces : dict
        Name -> vectors [N, D].
    factors : dict
        Factor -> [N] values, two factors or more; their order matters.
    features : array or torch.Tensor, optional
        [N, layers, dim] pooled input, for the controls of
        :func:`control_projections`.
    folds : int
        Folds of each probe.
    seed : int
        Seed of folds, controls and trials.
    resamples : SpeakerResamples, optional
        Adds 95 % intervals, see
        :class:`speechbrain_ext.evaluation.uncertainty.SpeakerResamples`.

    Returns
    -------
    report : dict
        ``factors``: factor -> {values, chance, majority}; ``subspaces`` and
        ``controls``: name -> {dim, probe: factor -> {accuracy, folds[,
        interval]}, eer: factor -> cosine EER, variance: as in
        :func:`variance_shares` (of two factors)}; ``cka``: name -> name ->
        linear CKA of the subspaces. Rates are fractions; an EER without
        trials is None, and so is the accuracy of a probe that cannot be
        trained (a factor or its groups with one value, values that occur
        once), which has a ``reason`` instead of the interval.

    Raises
    ------
    InputError
        With fewer than two factors or folds, NaN, or labels that do not fit.

    Example
    -------
    >>> speakers, contents = np.divmod(np.arange(24), 6)
    >>> report = leakage_report({"speaker": np.eye(4)[speakers]},
    ...                         {"speaker": speakers, "content": contents})
    >>> probe = report["subspaces"]["speaker"]["probe"]
    >>> probe["speaker"]["accuracy"], report["factors"]["content"]["chance"]
    (1.0, 0.16666666666666666)
    """
    if len(factors) < 2:
        raise InputError(
            f"leakage needs two factors or more, got {', '.join(factors)}"
        )
    if folds < 2:
        raise InputError(f"a probe needs 2 folds or more, got {folds}")
    subspaces = {
        name: to_matrix(vectors, f"subspace {name}")
        for name, vectors in subspaces.items()
    }
    count = len(next(iter(subspaces.values())))
    codes = {f: to_codes(v, count, f)[1] for f, v in factors.items()}
    # Not the joint of all others: its groups would share single values.
    groups = {
        factor: next(code for name, code in codes.items() if name != factor)
        for factor in codes
    }
    report = {"factors": {}, "subspaces": {}, "controls": {}}
    trials = {}
    for factor, code in codes.items():
        share = np.bincount(code).max() / count
        report["factors"][factor] = {
            "values": int(code.max() + 1),
            "chance": 1 / int(code.max() + 1),
            "majority": float(share),
        }
        try:
            trials[factor] = generate_trials(
                code, groups[factor], max_targets=MAX_TRIALS,
                max_nontargets=MAX_TRIALS, seed=seed,
            )  # fmt: skip
        except InputError:  # no pairs of one kind: nothing to compare
            trials[factor] = None
    controls = {}
    if features is not None:
        dims = [vectors.shape[1] for vectors in subspaces.values()]
        controls = control_projections(features, dims, seed)
    for part, columns in (("subspaces", subspaces), ("controls", controls)):
        for name, vectors in columns.items():
            entry = {"dim": vectors.shape[1], "probe": {}, "eer": {}}
            for factor, code in codes.items():
                entry["probe"][factor] = _probe_entry(
                    vectors, code, groups[factor], folds, seed, resamples
                )
                entry["eer"][factor] = (
                    trials[factor]
                    and equal_error_rate(
                        trials[factor].score(vectors), trials[factor].label
                    )[0]
                )
            if len(codes) == 2 and all(c.max() for c in codes.values()):
                entry["variance"] = variance_shares(
                    vectors, *codes.values(), names=tuple(codes)
                )
            report[part][name] = entry
    report["cka"] = cka_table(subspaces)
    return report


def _probe_entry(vectors, values, groups, folds, seed, resamples):
    """What a report keeps of a probe, or why there is none."""
    try:
        probe = linear_probe(vectors, values, groups, folds, seed)
    except InputError as error:  # vectors are checked: it is the labels
        return {"accuracy": None, "folds": [], "reason": str(error)}
    kept = {key: probe[key] for key in ("accuracy", "folds")}
    if resamples is not None:
        draws = resamples.accuracy(probe["correct"])
        kept["interval"] = resamples.interval(draws)
    return kept


def format_leakage(report):
    """The leakage matrix as plain-text tables.

    Arguments
    ---------
    report : dict
        Of :func:`leakage_report`.

    Returns
    -------
    table : str
        One line a subspace or control: for each factor the accuracy of the
        probe (with its interval, if known) and the cosine EER in percent
        (with two factors also its share of the variance). Below it chance and
        majority, the rest of the variance, and the CKA of the subspaces.

    Example
    -------
    >>> speakers, contents = np.divmod(np.arange(24), 6)
    >>> print(format_leakage(leakage_report({"speaker": np.eye(4)[speakers]},
    ...     {"speaker": speakers, "content": contents})))
    read from  dim  speaker %  EER %  var. %  content %  EER %  var. %
    ------------------------------------------------------------------
    speaker      4      100.0    0.0   100.0       16.7   50.0     0.0
    <BLANKLINE>
    linear probe of speaker: chance 25.0 %, majority 25.0 %
    linear probe of content: chance 16.7 %, majority 16.7 %
    <BLANKLINE>
    variance  interaction %  residual %  both %  confounded %
    ---------------------------------------------------------
    speaker               -           -     0.0           0.0
    """
    factors = report["factors"]
    entries = {
        " ".join(str(name).split()): entry
        for part in ("subspaces", "controls")
        for name, entry in report[part].items()
    }
    intervals = any(
        entry["probe"][factor].get("interval")
        for entry in entries.values()
        for factor in factors
    )
    shares = {n: e["variance"] for n, e in entries.items() if "variance" in e}
    header = ["read from", "dim"]
    for factor in factors:
        header += [f"{factor} %", *["95 %"] * intervals, "EER %"]
        header += ["var. %"] * bool(shares)
    rows = []
    for name, entry in entries.items():
        row = [name, str(entry["dim"])]
        for factor in factors:
            probe = entry["probe"][factor]
            row.append(format_number(probe["accuracy"], 100, 1))
            if intervals:
                row.append(format_interval(probe.get("interval")))
            row.append(format_number(entry["eer"][factor], 100, 1))
            if shares:
                row.append(format_number(shares[name][factor], 100, 1))
        rows.append(row)
    lines = [align_columns(rows, header, left=1), ""]
    lines += [
        f"linear probe of {factor}: chance {100 * known['chance']:.1f} %, "
        f"majority {100 * known['majority']:.1f} %"
        for factor, known in factors.items()
    ]
    if shares:
        kinds = {
            "interaction": "interaction %",
            "residual": "residual %",
            "interaction_and_residual": "both %",
            "confounded": "confounded %",
        }
        rows = [
            [name, *(format_number(share[kind], 100, 1) for kind in kinds)]
            for name, share in shares.items()
        ]
        header = ["variance", *kinds.values()]
        lines += ["", align_columns(rows, header, left=1)]
    if len(report["cka"]) > 1:
        # Columns are numbers of rows: names would make it too wide.
        rows = [
            [f"{i} {' '.join(str(name).split())}"]
            + [format_number(value) for value in row.values()]
            for i, (name, row) in enumerate(report["cka"].items(), 1)
        ]
        header = ["CKA", *(str(i) for i in range(1, len(rows) + 1))]
        lines += ["", align_columns(rows, header, left=1)]
    return "\n".join(lines)
