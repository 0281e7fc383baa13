"""Tutorials that a commit adds or changes: header, footer and execution."""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from commits import Outcome, call, changed, reason
from parts import git

SECONDS = 900
# Shell commands that install: the checkout takes their place.
INSTALL = re.compile(r"^([ \t]*)[!%].*(pip install|git clone).*", re.M)


def without_installation(notebook):
    """A notebook without its commands that install or clone.

    Example
    -------
    >>> cell = {
    ...     "cell_type": "code",
    ...     "source": ["%%capture\\n", "!pip install a"],
    ... }
    >>> without_installation({"cells": [cell]})["cells"][0]["source"]
    '%%capture\\npass'
    """
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = INSTALL.sub(r"\1pass", "".join(cell["source"]))
    return notebook


def execute(tree, name):
    """Run a notebook from start to end, with SpeechBrain of a checkout.

    It runs in an empty folder, where ``speechbrain`` is the checkout, as after
    ``git clone``.

    Returns
    -------
    seconds : float
    why : str
        Why it stopped; "" if it did not.
    """
    text = (tree / name).read_text(encoding="utf-8")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "tutorial.ipynb")
        copy.write_text(json.dumps(without_installation(json.loads(text))))
        Path(folder, "speechbrain").symlink_to(tree)
        code = "from nbclient.cli import main; main()"
        command = [sys.executable, "-c", code, "--kernel_name=python3", copy]
        try:
            status, printed = call(
                tree, *command, folder=folder, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            status, printed = 1, f"it takes more than {SECONDS} s"
    return time.monotonic() - begin, reason(printed) if status else ""


def check_execution(tree, before, name, is_new):
    """A notebook that runs, or that stops as it did without the change."""
    kind = "new notebook" if is_new else "notebook"
    check = f"{kind} {Path(name).name} runs"
    if not importlib.util.find_spec("nbclient"):
        return Outcome(check, "skipped", "nbclient is not installed")
    seconds, why = execute(tree, name)
    if why and not is_new and execute(before, name)[1] == why:
        return Outcome(check, "skipped", f"as without the change: {why}")
    took = f"{seconds:.0f} s"
    if why:
        return Outcome(check, "failed", f"after {took}: {why}")
    return Outcome(check, "passed", took)


def check_notebooks(tree, before):
    """Header and footer of all, and whether each runs.

    Arguments
    ---------
    tree : Path
        The checkout.
    before : Path
        The commit before.

    Yields
    ------
    Outcome
    """
    names = [name for name in changed(tree) if name.endswith(".ipynb")]
    if not names:
        return
    tool = tree / "tools/tutorial-cell-updater.py"
    status, printed = call(tree, sys.executable, tool, folder="docs")
    updated = git(tree, "diff", "--name-only", "--", *names).split()
    git(tree, "checkout", "--", "docs")
    wrong = reason(printed) if status else " ".join(updated)
    yield Outcome(
        "headers and footers of notebooks",
        "failed" if wrong else "passed",
        wrong or f"{len(names)} notebooks",
    )
    new = changed(tree, "A")
    for name in names:
        yield check_execution(tree, before, name, name in new)
