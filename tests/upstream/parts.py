"""The pull requests of ``series``: their folders, and the files they make."""

import dataclasses
import functools
import re
import subprocess
from pathlib import Path

import yaml
from modules import made_of

from speechbrain_ext.utils.errors import InputError

SERIES = Path(__file__).resolve().parent / "series"
# A line of an Authors block, which one line per author takes the place of.
AUTHOR = re.compile(r"^( *\* )@AUTHORS@\n", re.M)
# A block of nobody else, and where it follows a docstring of one line.
NOBODY = re.compile(r"\n+Authors\n \* @AUTHORS@\n")
ONE_LINE = re.compile(r'\A(""".*)\n\nAuthors\n \* @AUTHORS@\n"""')
CACHE = re.compile(r"/(__pycache__|\.\w+_cache)/")  # of Python, ruff, pytest


@dataclasses.dataclass(frozen=True)
class Part:
    """One pull request: a folder with ``text.md`` and what it changes.

    Of these there is one or more:

    - ``change.patch``: changes of files of SpeechBrain;
    - ``files/``: new files, at their places in a checkout;
    - ``part.yaml``: ``modules``, new files that are made of modules of ours
      (path -> ``from``, in speechbrain_ext, and ``without``, names that stay
      out), and ``needs``, branches that the part builds on.

    Arguments
    ---------
    folder : Path
        Its name is a number, which orders the series, and the branch's name.

    Example
    -------
    >>> Part(SERIES / "02-scores-repr").branch
    'scores-repr'
    """

    folder: Path

    @property
    def branch(self):
        """Name of the branch."""
        return self.folder.name.partition("-")[2]

    @property
    def title(self):
        """Title of the pull request and of the commit."""
        return self._text()[0]

    @property
    def body(self):
        """What and why, how it was tested, numbers."""
        return self._text()[1]

    def _text(self):
        text = (self.folder / "text.md").read_text(encoding="utf-8")
        title, _, body = text.removeprefix("# ").partition("\n")
        return title, body.strip()

    @functools.cached_property
    def options(self):
        """Of ``part.yaml``: ``modules`` and ``needs``."""
        file = self.folder / "part.yaml"
        given = yaml.safe_load(file.read_text("utf-8")) if file.exists() else {}
        return {"modules": {}, "needs": [], **given}

    def write(self, tree, authors):
        """Change the files of a checkout.

        Arguments
        ---------
        tree : Path
            A checkout with no changes but those of the parts it needs.
        authors : list of str
            For Authors blocks; those of no author get no line.
        """
        patch, files = self.folder / "change.patch", self.folder / "files"
        if patch.exists():
            try:
                git(tree, "apply", "--3way", "--index", str(patch))
            except InputError as error:
                raise InputError(
                    f"{self.folder.name} does not apply to this commit: {error}"
                )
        new = {
            path.relative_to(files): path.read_bytes()
            for path in sorted(files.rglob("*"))
            if path.is_file() and not CACHE.search(str(path))
        }
        for name, how in self.options["modules"].items():
            new[name] = made_of(
                how["from"], how.get("without", []), names_upstream()
            ).encode()
        for name, content in new.items():
            if (tree / name).exists():
                raise InputError(f"{self.folder.name}: there is a {name}")
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(content)
        if new:
            git(tree, "add", *map(str, new))
        names = changed_files(tree, "--cached")
        for name in names:
            sign(tree / name, authors)
        git(tree, "add", *names)


def sign(path, authors):
    """Put the authors into a file, where it asks for them.

    In lines of their own, or within a line, without years.
    """
    content = path.read_bytes()
    if b"@AUTHORS@" not in content:
        return
    text = content.decode("utf-8")
    if not authors:  # a block of nobody else goes
        text = NOBODY.sub("\n", ONE_LINE.sub(r'\1"""', text))
    lines = AUTHOR.sub(
        lambda line: "".join(f"{line[1]}{a}\n" for a in authors), text
    )
    names = [author.rstrip(" 0123456789") for author in authors]
    lines = lines.replace("@AUTHORS@", " & ".join(names or ["SpeechBrain"]))
    path.write_text(lines, encoding="utf-8")


def read_series(wanted=()):
    """The parts, small ones first.

    Arguments
    ---------
    wanted : list of str
        Branches; all if there are none.

    Raises
    ------
    InputError
        There is no such part.

    Example
    -------
    >>> [part.title for part in read_series(["scores-repr"])]
    ['Let PLDA scores be printed']
    """
    parts = [Part(folder) for folder in sorted(SERIES.iterdir())]
    known = [part.branch for part in parts]
    for name in wanted:
        if name not in known:
            raise InputError(
                f"there is no part {name}: give some of {', '.join(known)}"
            )
    return [part for part in parts if not wanted or part.branch in wanted]


def needed(part):
    """Parts that one builds on, and those that they build on, in order.

    Example
    -------
    >>> needed(read_series(["scores-repr"])[0])
    []
    """
    found = {}
    for name in part.options["needs"]:
        (other,) = read_series([name])
        found |= {one.folder: one for one in (*needed(other), other)}
    return [found[folder] for folder in sorted(found)]


@functools.lru_cache(maxsize=1)
def names_upstream():
    """Modules of ours -> what they are called in SpeechBrain."""
    return {
        dotted(f"speechbrain_ext/{how['from']}"): dotted(name)
        for part in read_series()
        for name, how in part.options["modules"].items()
    }


def dotted(path):
    """The module that a file is.

    Example
    -------
    >>> dotted("speechbrain/dataio/sampler.py")
    'speechbrain.dataio.sampler'
    """
    return path.removesuffix(".py").replace("/", ".")


def git(folder, *arguments):
    """What git prints; what it says in one line where it fails."""
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True
    )
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        said = said or f"exit status {done.returncode}, perhaps of a hook"
        raise InputError(f"git {arguments[0]} in {folder}: {said}")
    return done.stdout


def changed_files(tree, *between):
    """Names of files that are new or changed."""
    listed = git(tree, "diff", "--name-only", "--diff-filter=AM", *between)
    return listed.splitlines()
