"""SpeechBrain's recipe tests of the rows that a commit concerns."""

import csv
import io
import os
import re
import sys
import tempfile
from pathlib import Path

from commits import Outcome, call, changed, reason
from parts import git

RECIPES = "tests/recipes"
OUTPUT = "tests/tmp"
FLAGS = "test_debug_flags"
# Fields of files: where one was changed, the row is tested.
FILES = ("Script_file", "Hparam_file", "Data_prep_file")


def read_rows(tree, commit="HEAD"):
    """Rows of a commit by the names that the recipe tests give them.

    Returns
    -------
    dict
        Such as {"VoxCeleb_row_02": {"Task": ...}}: the number is the line's.
    """
    rows = {}
    listed = git(tree, "ls-tree", "--name-only", commit, f"{RECIPES}/")
    for name in listed.splitlines():
        if name.endswith(".csv"):
            text = io.StringIO(git(tree, "show", f"{commit}:{name}"))
            table = csv.DictReader(text, skipinitialspace=True)
            for number, row in enumerate(table, 2):
                rows[f"{Path(name).stem}_row_{number:02}"] = row
    return rows


def find_rows(tree):
    """Names of rows that are new, and of others whose files were changed."""
    rows, old = read_rows(tree), [*read_rows(tree, "HEAD~1").values()]
    files = {(tree / name).resolve() for name in changed(tree)}

    def concerned(row):
        named = (row[field].strip() for field in FILES)
        return not files.isdisjoint((tree / name).resolve() for name in named)

    tested = [name for name, row in rows.items() if row[FLAGS].strip()]
    new = [name for name in tested if rows[name] not in old]
    touched = [name for name in tested if concerned(rows[name])]
    return new, [name for name in touched if name not in new]


def find_needed(names, rows):
    """Rows whose output the flags of others name.

    Example
    -------
    >>> rows = {"a_row_02": {FLAGS: "--pretrain_path=tests/tmp/b_row_03/save"}}
    >>> find_needed(["a_row_02"], rows | {"b_row_03": {FLAGS: ""}})
    ['b_row_03']
    """
    flags = " ".join(rows[name][FLAGS] for name in names)
    found = re.findall(rf"{OUTPUT}/([\w-]+_row_\d+)", flags)
    return [name for name in dict.fromkeys(found) if name in rows]


def write_rows(folder, rows, wanted):
    """CSV files, in which only the wanted rows have flags, so are tested."""
    files = {}
    for name, row in rows.items():
        flags = row[FLAGS] if name in wanted else ""
        files.setdefault(name.rpartition("_row_")[0], []).append(
            row | {FLAGS: flags}
        )
    for stem, lines in files.items():
        with open(folder / f"{stem}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)


def run_rows(tree, rows, names):
    """Run SpeechBrain's recipe tests of some rows.

    Arguments
    ---------
    tree : Path
        The checkout.
    rows : dict
        All rows.
    names : list of str
        Those to run, after those that they need.

    Returns
    -------
    dict
        Name -> why it stopped, "" if it passed; with those that were needed.
    """
    if not names:
        return {}
    found = run_rows(tree, rows, find_needed(names, rows))
    for name in names:
        for one in find_needed([name], rows):
            if found[one]:
                found[name] = f"{one} {found[one]}"
    left = [name for name in names if name not in found]
    printed = call_tests(tree, rows, left) if left else ""
    return found | {name: why_stopped(tree, name, printed) for name in left}


def call_tests(tree, rows, names):
    """What SpeechBrain's recipe tests of some rows print."""
    with tempfile.TemporaryDirectory() as folder:
        tables, program = Path(folder, "rows"), Path(folder, "bin/python")
        tables.mkdir()
        write_rows(tables, rows, names)
        # The tests call "python" and set PYTHONPATH: scripts would import an
        # installed SpeechBrain.
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\nPYTHONPATH="{tree}:$PYTHONPATH" '
            f'exec "{sys.executable}" "$@"\n'
        )
        program.chmod(0o755)
        path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
        code = (
            "from tests.utils.recipe_tests import run_recipe_tests\n"
            f"run_recipe_tests({str(tables)!r})"
        )
        return call(tree, sys.executable, "-c", code, PATH=path)[1]


def why_stopped(tree, name, printed):
    """Why a row failed, by its files and what the tests printed, or ""."""
    output = tree / OUTPUT / name
    if (output / ".passed").exists():
        return ""
    lines = [line for line in printed.splitlines() if name in line]
    if f"Error in {name} " in printed:
        # Until SpeechBrain logs, errors are in the first of these.
        files = (output / f"std{end}.txt" for end in ("err", "out"))
        lines = [file.read_text(encoding="utf-8") for file in files]
    return reason("\n".join(lines or [printed])).replace(f"{tree}/", "")


def check_rows(tree, before):
    """Rows that are new, which must fail before, and those with changed files.

    Arguments
    ---------
    tree : Path
        The checkout.
    before : Path
        The commit before, with the tests of this one.

    Yields
    ------
    Outcome
    """
    rows = read_rows(tree)
    new, touched = find_rows(tree)
    ran = run_rows(tree, rows, new + touched)
    found = {name: ran[name] for name in new + touched}
    stopped = [name for name in touched if found[name]]
    earlier = run_rows(before, rows, new + stopped)
    if new:
        passed = [name for name in new if not earlier[name]]
        yield Outcome(
            "new recipe rows without the change",
            "failed" if passed else "passed",
            f"{len(new) - len(passed)} of {len(new)} fail; all must",
        )
    if found:
        skipped = {n: found[n] for n in stopped if found[n] == earlier[n]}
        failed = {n: w for n, w in found.items() if w and n not in skipped}
        yield summarise(found, failed, skipped)


def summarise(found, failed, skipped):
    """The outcome of rows; what stops them also without the change is skipped.

    Example
    -------
    >>> print(
    ...     summarise({"a_row_02": "", "b_row_02": "E"}, {"b_row_02": "E"}, {})
    ... )
    recipe tests: failed (2 rows: 1 passed, 1 failed, b_row_02: E)
    >>> print(summarise({"a_row_02": ""}, {}, {}))
    recipe tests: passed (1 rows: 1 passed)
    """
    passed = len(found) - len(failed) - len(skipped)
    details = [f"{passed} passed"] if passed else []
    for word, group in (("failed", failed), ("skipped", skipped)):
        if group:
            details.append(f"{len(group)} {word}")
            for why in dict.fromkeys(group.values()):
                names = [name for name in group if group[name] == why]
                details.append(f"{' '.join(names)}: {why}")
    result = "failed" if failed else "passed" if passed else "skipped"
    detail = f"{len(found)} rows: {', '.join(details)}"
    return Outcome("recipe tests", result, detail)
