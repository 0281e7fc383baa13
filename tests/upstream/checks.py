"""SpeechBrain's own checks of a commit, and what they said."""

import re
import shutil
import sys

from commits import Outcome, call, changed, commit_before, is_test
from notebooks import check_notebooks
from parts import git
from recipe_rows import check_rows

# Bytes of address space for tests that must fail without the change: some ask
# for terabytes there.
MEMORY = 8 * 2**30
NEW_TEST = re.compile(r"^\+\+\+ b/(.*)|^\+def (test_\w+)", re.M)


def run_pytest(tree, *arguments, memory=None):
    """Exit status of pytest, its last line, and how many tests did what.

    Returns
    -------
    status : int
    summary : str
        Such as "1 failed, 3 passed".
    counts : dict
        Such as {"failed": 1, "passed": 3}.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    status, printed = call(tree, *command, *arguments, memory=memory)
    last = (printed.strip().splitlines() or ["nothing was printed"])[-1]
    summary = re.sub(r" in [\d.]+s.*", "", last).strip("= ")
    counts = re.findall(r"(\d+) (failed|passed|errors?|skipped)", summary)
    return status, summary, {name: int(number) for number, name in counts}


def find_new_tests(difference):
    """Tests that a difference adds.

    Arguments
    ---------
    difference : str
        As ``git diff`` prints it.

    Returns
    -------
    list of str
        Such as "tests/unittests/test_a.py::test_b".

    Example
    -------
    >>> find_new_tests("+++ b/t/test_a.py\\n+import x\\n+def test_b():\\n")
    ['t/test_a.py::test_b']
    """
    found, file = [], None
    for name, test in NEW_TEST.findall(difference):
        file = name or file
        if test:
            found.append(f"{file}::{test}")
    return found


def check_before(before, tests):
    """New tests on the commit before, where some must fail."""
    _, summary, counts = run_pytest(before, *tests, memory=MEMORY)
    result = "passed" if counts.get("failed") else "failed"
    return Outcome(
        "new tests without the change", result, f"{summary}; some must fail"
    )


def check_tests(tree, tests):
    """New tests; SpeechBrain's consistency tests; those of changed modules.

    The last are doctests, and tests that name the module. All in one call, as
    importing SpeechBrain takes longer than most of them.
    """
    modules = [
        name
        for name in changed(tree)
        if name.startswith("speechbrain/") and not is_test(name)
    ]
    # SpeechBrain runs none of integrations, and those of inference download.
    doctests = [
        name
        for name in modules
        if not re.match("speechbrain/(integrations|inference)/", name)
    ]
    imports = [m.removesuffix(".py").replace("/", ".") for m in modules]
    files = {test.partition("::")[0] for test in tests}
    files |= {
        str(path.relative_to(tree))
        for folder in ("tests/unittests", "tests/integration")
        for path in sorted((tree / folder).rglob("*.py"))
        if any(name in path.read_text("utf-8") for name in imports)
    }
    arguments = ["--doctest-modules", "tests/consistency", *doctests]
    status, summary, _ = run_pytest(tree, *arguments, *sorted(files))
    return Outcome(
        "new tests, consistency tests, doctests and tests of changed modules",
        "failed" if status else "passed",
        f"{summary}; {len(tests)} new ones",
    )


def check_style(tree):
    """Linters with the configuration and the versions of the checkout."""
    status, printed = call(tree, "git", "diff", "--check", "HEAD~1")
    yield Outcome(
        "whitespace", "failed" if status else "passed", printed[-200:] or "git"
    )
    names = changed(tree)
    python = [name for name in names if name.endswith(".py")]
    options = [name for name in names if name.endswith((".yaml", ".yml"))]
    texts = [name for name in names if not name.endswith(".ipynb")]
    pins = (tree / "lint-requirements.txt").read_text("utf-8")
    for tool, arguments, files in (
        ("ruff", ["check", "--quiet"], python),
        ("ruff", ["format", "--check", "--quiet"], python),
        ("yamllint", ["--no-warnings"], options),
        ("codespell", ["--ignore-words=.dict-speechbrain.txt"], texts),
    ):
        if files:
            yield check_linter(tree, tool, arguments, files, pins)


def check_linter(tree, tool, arguments, files, pins):
    """One linter, where there is one of the right version.

    Arguments
    ---------
    tree : Path
        The checkout.
    tool : str
        Its program.
    arguments : list of str
        Options.
    files : list of str
        What to look at.
    pins : str
        Requirements: those with "==" are followed.

    Returns
    -------
    Outcome
    """
    name = f"{tool} {arguments[0]}" if tool == "ruff" else tool
    program = shutil.which(tool)
    if not program:
        return Outcome(name, "skipped", "it is not installed")
    wanted = re.search(rf"^{tool}==v?(\S+)", pins, re.M)
    version = call(tree, program, "--version")[1].split()[-1]
    if wanted and wanted[1] != version:
        return Outcome(name, "skipped", f"{version}, expected {wanted[1]}")
    status, printed = call(tree, program, *arguments, *files)
    if status:
        return Outcome(name, "failed", " ".join(printed.split())[-300:])
    return Outcome(name, "passed", f"{version}, {len(files)} files")


def run_checks(tree):
    """All checks of the last commit of a checkout.

    Arguments
    ---------
    tree : Path
        A checkout, or another work tree of one.

    Returns
    -------
    list of Outcome
    """
    tests = find_new_tests(git(tree, "diff", "HEAD~1"))
    with commit_before(tree) as before:
        found = [
            *([check_before(before, tests)] if tests else []),
            *check_rows(tree, before),
            *check_notebooks(tree, before),
        ]
    if not any("new " in outcome.check for outcome in found):
        return [Outcome("new tests", "failed", "there are none")]
    return [*found, check_tests(tree, tests), *check_style(tree)]
