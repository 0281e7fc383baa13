"""Write what we contribute to SpeechBrain into a checkout of it.

    python tests/upstream/contribute.py CHECKOUT [--output FOLDER]

Each folder of ``series`` is one pull request. It becomes a branch of CHECKOUT,
one commit from the commit that is checked out there, which stays checked out,
or from those of the parts that it builds on; and in FOLDER a patch for ``git
am`` and the text of the pull request, in the form of SpeechBrain's own
template.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from checks import run_checks
from parts import git, needed, read_series

from speechbrain_ext.utils.errors import InputError, one_line_errors

TEMPLATE = ".github/pull_request_template.md"
# Patches that ``git am`` takes, whatever the user's configuration of git says
PLAIN = ("--no-attach", "--no-color", "--no-ext-diff")
PLAIN += ("--src-prefix=a/", "--dst-prefix=b/")


def check_checkout(checkout, parts):
    """Refuse a folder in which the branches cannot be written."""
    for name in (".git", "speechbrain/version.txt", TEMPLATE):
        if not (checkout / name).exists():
            raise InputError(
                f"{checkout} is no SpeechBrain checkout: it has no {name}; "
                "give the root of a clone of speechbrain/speechbrain"
            )
    if changes := git(checkout, "status", "--porcelain").splitlines():
        raise InputError(
            f"{checkout} has changes that are not committed, in "
            f"{len(changes)} files (first: {changes[0][3:]}): commit, stash or "
            "remove them"
        )
    for part in parts:
        if git(checkout, "branch", "--list", part.branch):
            raise InputError(
                f"{checkout} has a branch {part.branch} already: rename or "
                "delete it, or name other parts with --parts"
            )


@contextlib.contextmanager
def work_tree(checkout, *options):
    """A work tree of its own, so that the user's stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git(checkout, "worktree", "add", "--quiet", *options, str(tree), "HEAD")
        try:
            yield tree
        finally:
            git(checkout, "worktree", "remove", "--force", str(tree))


def describe(part, template, outcomes=()):
    """The text of a pull request, in a template of SpeechBrain.

    Arguments
    ---------
    part : Part
        Has the text.
    template : str
        Its comments between the first heading and the list of things to do
        before submitting ask for what the text says.
    outcomes : list of checks.Outcome
        What SpeechBrain's own checks said.

    Returns
    -------
    str
    """
    body = part.body
    if others := needed(part):
        titles = [f"- `{other.branch}`: {other.title}" for other in others]
        body = "\n".join(["Builds on:", "", *titles, "", body])
    if outcomes:
        rows = [f"| {o.check} | {o.result} | {o.detail} |" for o in outcomes]
        rows = ["| Check | Outcome | |", "| - | - | - |", *rows]
        body += "\n\n### Checks\n\n" + "\n".join(rows)
    heading, _, rest = template.partition("\n")
    todo = rest[rest.index("<details>") :]
    return f"# {part.title}\n\n{heading}\n\n{body}\n\n{todo}"


def contribute(checkout, output, authors=(), wanted=(), check=False):
    """Write branches, patches and texts.

    Arguments
    ---------
    checkout : Path
        Root of a clone of SpeechBrain without changes.
    output : Path
        Folder for patches and texts.
    authors : list of str
        For Authors blocks, such as "Ada Lovelace 2026".
    wanted : list of str
        Branches; all if there are none.
    check : bool
        Run SpeechBrain's checks, and add their outcome to the texts.

    Returns
    -------
    dict
        Branch -> outcomes of its checks.

    Raises
    ------
    InputError
        An unknown part, no checkout, changes in it, a branch that is there, a
        part that does not apply, or an output in the checkout.
    """
    parts = read_series(wanted)
    check_checkout(checkout, parts)
    if output.is_relative_to(checkout):
        raise InputError(
            f"{output} is in the checkout, which would have changes by it: "
            "give another folder, --output"
        )
    output.mkdir(parents=True, exist_ok=True)
    template = (checkout / TEMPLATE).read_text(encoding="utf-8")
    found = {}
    for part in parts:
        with work_tree(checkout, "--detach") as tree:
            for one in (*needed(part), part):
                one.write(tree, authors)
                git(tree, "commit", "--quiet", "-m", one.title)
            patch = git(tree, "format-patch", "-1", "--stdout", *PLAIN)
            found[part.branch] = run_checks(tree) if check else []
            text = describe(part, template, found[part.branch])
            for suffix, content in (("patch", patch), ("md", text)):
                path = output / f"{part.folder.name}.{suffix}"
                path.write_text(content, encoding="utf-8")
            # Last, so that a part that does not get so far can be written again
            git(tree, "branch", part.branch)
        print(f"{part.folder.name}: {part.title}")
        for outcome in found[part.branch]:
            print(f"    {outcome}")
    return found


def main(arguments=None):
    """Read the command line; exit status 1 where a check failed."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("checkout", type=Path, help="a clone of SpeechBrain")
    parser.add_argument(
        "--output",
        type=Path,
        default="contribution",
        help="folder for patches and texts",
    )
    parser.add_argument(
        "--authors",
        default="",
        help='for Authors blocks: "Ada Lovelace 2026, Alan Turing 2026"',
    )
    parser.add_argument(
        "--parts", nargs="+", default=[], help="branches; all if not given"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="run SpeechBrain's checks on each branch",
    )
    options = parser.parse_args(arguments)
    authors = [a.strip() for a in options.authors.split(",") if a.strip()]
    with one_line_errors():
        found = contribute(
            options.checkout.resolve(),
            options.output.resolve(),
            authors,
            options.parts,
            options.check,
        )
        if any(o.result == "failed" for part in found.values() for o in part):
            sys.exit(1)


if __name__ == "__main__":
    main()
