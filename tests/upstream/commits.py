"""A commit of SpeechBrain: what it changes, and programs that run on it."""

import contextlib
import dataclasses
import os
import re
import resource
import subprocess
import tempfile
from pathlib import Path

from parts import git

COLOUR = re.compile(r"\x1b\[[\d;]*m")
ERROR = re.compile(r"[\w.]*(Error|Exception|Exit)\b")
# What it says where a file of the hub or another server was not reached.
UNREACHED = re.compile(
    "Connect(ion)?Error|URLError|LocalEntryNotFound|RepositoryNotFound|"
    "Max retries|Name or service not known|Could not resolve|couldn't connect|"
    "is not a valid model identifier|Cannot find the requested files"
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a check said: passed, failed or skipped, and a detail.

    Example
    -------
    >>> print(Outcome("ruff", "passed", "2 files"))
    ruff: passed (2 files)
    """

    check: str
    result: str
    detail: str

    def __str__(self):
        """For people."""
        return f"{self.check}: {self.result} ({self.detail})"


def call(tree, *command, memory=None, folder=".", timeout=None, **settings):
    """Run a program in a checkout, whose modules it imports.

    Arguments
    ---------
    tree : Path
        The checkout.
    *command : str or Path
        Program and arguments.
    memory : int, optional
        Bytes of address space.
    folder : str or Path
        Where it runs, relative to the checkout.
    timeout : float, optional
        Seconds, after which it is ended.
    **settings : str
        Further variables of the environment.

    Returns
    -------
    status : int
    printed : str
    """

    def limit():
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    settings |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=tree / folder,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit,
        timeout=timeout,
    )
    return done.returncode, done.stdout


def changed(tree, kinds="AM"):
    """Names of files that the last commit added (A) or changed (M)."""
    names = ("--name-only", f"--diff-filter={kinds}", "HEAD~1", "HEAD")
    return git(tree, "diff", *names).splitlines()


def is_test(name):
    """Whether a file of SpeechBrain is one of its tests."""
    return "tests" in Path(name).parts


@contextlib.contextmanager
def commit_before(tree):
    """A work tree of the commit before, with the tests of this one."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder).resolve() / "before"
        git(tree, "worktree", "add", "--detach", str(before), "HEAD~1")
        try:
            if files := [*filter(is_test, changed(tree))]:
                commit = git(tree, "rev-parse", "HEAD").strip()
                git(before, "checkout", commit, "--", *files)
            yield before
        finally:
            git(tree, "worktree", "remove", "--force", str(before))


def reason(printed):
    """Why a program stopped: the last error of what it printed, in one line.

    Example
    -------
    >>> reason("Traceback ...\\nModuleNotFoundError: No module named 'k2'\\n")
    'needs k2'
    >>> reason("urllib.error.URLError: <urlopen error ...>\\nNothing came.")
    'needs the network'
    >>> reason("NameError: name 'b' is not defined\\nepoch 1 | 2")
    "NameError: name 'b' is not defined"
    >>> reason("killed | stopped")
    'killed / stopped'
    """
    printed = COLOUR.sub("", printed)
    lines = printed.strip().splitlines() or ["nothing was printed"]
    errors = [line for line in lines if ERROR.match(line)]
    end = (errors or lines)[-1]
    if missing := re.search(r"No module named '(\w+)", end):
        return f"needs {missing[1]}"
    if UNREACHED.search(printed):
        return "needs the network"
    return end.strip().replace("|", "/")[-200:]
