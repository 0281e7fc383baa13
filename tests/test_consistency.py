"""Recipes, their rows in tests/recipes, and docstrings hold together.

The rules are those of SpeechBrain's consistency tests, or stricter. Where
SPEECHBRAIN_ROOT names a checkout, ``pytest -m stock`` puts our files into a
copy of it, and runs those tests themselves and all rows.
"""

import ast
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from speechbrain.utils.run_opts import RunOptions
from speechbrain_ext import __version__

# Scripts of SpeechBrain that our option files go with.
UPSTREAM = {
    "recipes/VoxCeleb/SpeakerRec/train_speaker_embeddings.py",
    "recipes/VoxCeleb/SpeakerRec/speaker_verification_cosine.py",
    "recipes/VoxCeleb/SpeakerRec/speaker_verification_plda.py",
    "recipes/VoxCeleb/SpeakerRec/voxceleb_prepare.py",
    "recipes/Google-speech-commands/train.py",
    "recipes/Google-speech-commands/prepare_GSC.py",
}
MANDATORY = ["Task", "Script_file", "Hparam_file", "Readme_file"]
MANDATORY += ["test_debug_flags"]


def read_rows(root):
    """Name of a table of tests/recipes -> its rows."""
    tables = {}
    for path in sorted(root.glob("tests/recipes/*.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            tables[path.stem] = list(csv.DictReader(file))
    return tables


ROWS = read_rows(ROOT)
SCRIPTS = {
    row["Hparam_file"]: row["Script_file"]
    for rows in ROWS.values()
    for row in rows
    if row["Script_file"] not in UPSTREAM
}


# A rule gives a list of faults; each is shown a sound text, and that text with
# something wrong in it.


def check_rule(rule, text, *wrong):
    """A rule passes a text, and finds the fault of (old, new, fault)."""
    assert rule(text) == []
    for old, new, fault in wrong:
        assert old in text
        assert rule(text.replace(old, new)) == [fault]


# Option files and their scripts -------------------------------------------


def read_options(text):
    """Top-level keys of an option file, and all keys that its !refs name."""
    text = re.sub("#.*", "", text)
    refs = " ".join(re.findall("!(?:ref|copy) (.*)", text))
    return re.findall(r"^(\w+):", text, re.M), set(re.findall(r"<(\w+)", refs))


def read_script(source):
    """What a script reads of the options: keys, keys in loops, optional keys.

    The first are patterns, of strings and f-strings. The second are what
    ``key`` stands for in ``hparams[key]``. The third may be missing.
    """
    tree = ast.parse(source)
    source = ast.unparse(tree)  # no comments, and strings in single quotes
    read = r"(?<![\w.])(?:self\.)?hparams(?:\.(\w+)|\[f?'(.+?)'\])"
    found = map("".join, re.findall(read, source))
    keys = {re.sub("{.*?}", ".+", key) for key in found}
    optional = set(re.findall(r"'(\w+)' in hparams\b(?!\[)", source))
    looped, constants = set(), {}
    for node in ast.walk(tree):
        if node in tree.body and isinstance(node, ast.Assign):
            constants[ast.unparse(node.targets[0])] = node.value
        loops = [node] if isinstance(node, ast.For) else []
        for loop in loops or getattr(node, "generators", []):
            if f"hparams[{ast.unparse(loop.target)}]" in ast.unparse(node):
                values = constants.get(ast.unparse(loop.iter), loop.iter)
                looped |= set(re.findall(r"'(\w+)'", ast.unparse(values)))
    return keys, looped, optional


def option_faults(text, source):
    """Keys that are not used, and keys that are read and not there.

    As for SpeechBrain, a key is used where the script spells it out.
    """
    keys, used = read_options(text)
    read, looped, optional = read_script(source)
    used |= {*RunOptions().as_dict(), "__set_seed"}
    used |= {key for key in keys for p in read if re.fullmatch(p, key)}
    unused = [f"{key} is not used" for key in keys if key not in used]
    missing = [
        f"{pattern} is not there"
        for pattern in sorted((read | looped) - optional)
        if not any(re.fullmatch(pattern, key) for key in keys)
    ]
    return unused + missing


@pytest.mark.parametrize("options, script", SCRIPTS.items())
def test_options_and_script_agree(options, script):
    text = (ROOT / options).read_text(encoding="utf-8")
    source = (ROOT / script).read_text(encoding="utf-8")
    faults = option_faults(text, source)
    assert not faults


def test_options_that_do_not_agree_are_found():
    text = (
        "a: 1\nb: 2\nc: 3\nd: !ref <b>/<c[x]>\ntrain_size: 4\nlr: 5\n"
        "debug: True\n__set_seed: !apply:f [!ref <a>]\n"
    )
    source = (
        'hparams["d"], hparams[f"{split}_size"], self.hparams.lr\n'
        'KEYS = ("a", *("lr",))\n[hparams[key] for key in KEYS]\n'
        'if "prepare" in hparams: hparams["prepare"]()\n'
    )
    check_rule(
        lambda source: option_faults(text, source),
        source,
        ("self.hparams.lr", "", "lr is not used"),  # KEYS does not count
        ('hparams[f"{split}_size"], ', "", "train_size is not used"),
        ("_size", '_size"], hparams[f"x{n}', "x.+ is not there"),
        ("KEYS = (", 'KEYS = ("x", ', "x is not there"),
        ('"d"', '"d"], hparams["x"', "x is not there"),
        ("hparams.lr", "hparams.lr, self.hparams.x", "x is not there"),
        ('if "prepare" in hparams: ', "", "prepare is not there"),
    )
    check_rule(
        lambda text: option_faults(text, source),
        text,
        ("debug", "e: [<e>]\ndebug", "e is not used"),
        ("<b>", "b", "b is not used"),
        ("<b>/<c[x]>", "<c> # <b>", "b is not used"),
    )


# Rows of tests/recipes ----------------------------------------------------


def row_faults(root):
    """What is wrong with the rows of tests/recipes."""
    faults, listed = [], set()
    for name, rows in read_rows(root).items():
        for line, row in enumerate(rows, 2):
            listed.add((name, row["Hparam_file"]))
            found = [f"no {column}" for column in MANDATORY if not row[column]]
            if row["Dataset"] != name:
                found.append(f"Dataset {row['Dataset']} is not {name}")
            for column, path in row.items():
                if column.endswith("_file") and path not in {"", *UPSTREAM}:
                    if not (root / path).is_file():  # or a link to nowhere
                        found.append(f"no file {path}")
            checks = row["test_debug_checks"]
            if checks and not re.search(r"file_exists=\[.+\]", checks):
                found.append(f"cannot read the checks {checks}")
            faults += [f"{name}, line {line}: {fault}" for fault in found]
    for path in sorted(root.glob("recipes/**/hparams/*.yaml")):
        path = path.relative_to(root)
        if (path.parts[1], str(path)) not in listed:
            faults.append(f"{path} is in no row of its table")
    return faults


def test_rows():
    faults = row_faults(ROOT)
    assert not faults


def test_wrong_rows_are_found(tmp_path):
    def rule(text):
        (tmp_path / "tests/recipes/X.csv").write_text(text)
        return [f.removeprefix("X, line 2: ") for f in row_faults(tmp_path)]

    for folder in ("tests/recipes", "recipes/X/hparams"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("train.py", "hparams/a.yaml", "README.md"):
        (tmp_path / "recipes/X" / name).touch()
    (tmp_path / "recipes/X/link.py").symlink_to("gone.py")
    text = (
        "Task,Dataset,Script_file,Hparam_file,Data_prep_file,Readme_file,"
        "test_debug_flags,test_debug_checks\n"
        "T,X,recipes/X/train.py,recipes/X/hparams/a.yaml,,recipes/X/README.md,"
        "--seed=1,file_exists=[a]\n"
    )
    check_rule(
        rule,
        text,
        ("T,X", "T,Y", "Dataset Y is not X"),
        ("T,X", ",X", "no Task"),
        ("--seed=1", "", "no test_debug_flags"),
        ("file_exists=[a]", "a", "cannot read the checks a"),
        ("train.py", "link.py", "no file recipes/X/link.py"),
    )
    (tmp_path / "recipes/X/hparams/b.yaml").symlink_to("a.yaml")
    unlisted = "recipes/X/hparams/b.yaml is in no row of its table"
    assert rule(text) == [unlisted]


# Docstrings ---------------------------------------------------------------


def arguments(node):
    """Arguments of a function, or those that make an object of a class."""
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if getattr(n, "name", 0) == "__init__"]
        return arguments(inits[0]) if inits else None
    found = {n.arg for n in ast.walk(node.args) if isinstance(n, ast.arg)}
    return found - {"self", "cls"}


def described(text):
    """Names in the section Arguments of a docstring, None without one."""
    _, section, rest = text.partition("Arguments\n---------\n")
    if not section:
        return None
    lines = re.split(r"\n\w+\n-+\n", rest)[0].splitlines()
    names = [line.split(" : ")[0] for line in lines if line[:1].strip()]
    return {name.strip(" *") for name in ",".join(names).split(",")}


def docstring_faults(source, library=True):
    """Public things without a docstring, and wrong sections Arguments.

    The larger functions of the library must have such a section.
    """
    faults, tree = [], ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            continue
        name = getattr(node, "name", "the module")
        if name.startswith("_"):
            continue
        text = ast.get_docstring(node)
        if not text:
            faults.append(f"{name} has no docstring")
            continue
        names = None if node is tree else arguments(node)
        if names is not None and described(text) not in (None, names):
            faults.append(f"{name} describes other arguments than it has")
        if library and node in tree.body and len(names or ()) > 2:
            if not described(text):
                faults.append(f"{name} does not say what its arguments are")
    return faults


def own_scripts(*folders):
    """Python files of some folders; links are looked at where they lead."""
    paths = (
        path for folder in folders for path in ROOT.glob(f"{folder}/**/*.py")
    )
    return sorted(
        str(path.relative_to(ROOT)) for path in paths if not path.is_symlink()
    )


@pytest.mark.parametrize("path", own_scripts("speechbrain_ext", "recipes"))
def test_docstrings(path):
    source = (ROOT / path).read_text(encoding="utf-8")
    faults = docstring_faults(source, path.startswith("speechbrain_ext"))
    assert not faults


def test_wrong_docstrings_are_found():
    source = '''"""Module."""
class Thing:
    """Arguments below.

    Arguments
    ---------
    size : int
        How big.
    colour, *more
        What it looks like.

    Raises
    ------
    ValueError
        Never.
    """
    def __init__(self, size, colour, *more):
        pass
    def grow(self, by, to, times):
        """Grow."""
def _private():
    pass
def small(a, b):
    """No section."""
'''
    other = "Thing describes other arguments than it has"
    check_rule(
        docstring_faults,
        source,
        ('"""Module."""', "", "the module has no docstring"),
        ('"""Grow."""', "pass", "grow has no docstring"),
        ("_private", "public", "public has no docstring"),
        ("colour, *more\n", "colour\n", other),
        ("size : int", "length : int", other),
        ("(a, b)", "(a, b, c)", "small does not say what its arguments are"),
    )


# The citation -------------------------------------------------------------


def test_citation_is_of_this_version():
    """It cites what the README does, and the release that setup.py installs."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    citation = yaml.safe_load(text)
    paper = citation["preferred-citation"]
    assert citation["version"] == __version__
    assert f'license="{citation["license"]}"' in (ROOT / "setup.py").read_text()
    release = f"## [{__version__}] - {citation['date-released']}"
    assert release in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    bibtex = readme.split("```bibtex")[1]
    for value in (paper["title"], paper["doi"], str(paper["year"])):
        assert f"{{{value}}}" in bibtex


# The rows run -------------------------------------------------------------


def test_main_recipe_runs_with_the_flags_of_its_rows(tmp_path):
    """As SpeechBrain's own recipe tests call it, first row first.

    The last row, of run_experiments.py, takes as long as all the others.
    """
    pytest.importorskip("espeakng_loader")
    for number, row in enumerate(ROWS["InterventionalTTS"][:-1], 2):
        script = ROOT / row["Script_file"]
        output = tmp_path / f"tests/tmp/InterventionalTTS_row_{number:02}"
        command = [sys.executable, script, ROOT / row["Hparam_file"]]
        command += [f"--output_folder={output}", "--device=cpu", "--debug"]
        command += ["--debug_persistently"]
        subprocess.run(
            [*command, *shlex.split(row["test_debug_flags"])],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(script.parent)},
            check=True,
            capture_output=True,
        )
        wanted = row["test_debug_checks"].split("[")[1].rstrip("]")
        for name in wanted.split(","):
            assert (output / name).is_file(), name


# SpeechBrain's own tests --------------------------------------------------


def add(source, target):
    """Copy a file of ours, which must not hide one of SpeechBrain's."""
    if Path(target).exists():
        raise FileExistsError(f"SpeechBrain has a file {target}")
    shutil.copy(source, target)


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A copy of SpeechBrain's checkout, with our files in it."""
    if "SPEECHBRAIN_ROOT" not in os.environ:
        pytest.skip("SPEECHBRAIN_ROOT does not name a SpeechBrain checkout")
    root = tmp_path_factory.mktemp("merged")
    left = shutil.ignore_patterns(".git", "data", "results", "__pycache__")
    options = {"symlinks": True, "ignore": left, "dirs_exist_ok": True}
    shutil.copytree(os.environ["SPEECHBRAIN_ROOT"], root, **options)
    theirs = read_rows(root)
    setups = (ROOT / "tests/recipes/setup").iterdir()
    for path in (ROOT / "speechbrain_ext", *setups):
        (root / path.relative_to(ROOT)).symlink_to(path)
    options["copy_function"] = add
    shutil.copytree(ROOT / "recipes", root / "recipes", **options)
    for name, rows in ROWS.items():
        rows = theirs.get(name, []) + rows
        with open(root / f"tests/recipes/{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], "", "ignore")
            writer.writeheader()
            writer.writerows(rows)
    return root


def in_merged(merged, code):
    """Run some Python in the copy."""
    python = Path(sys.executable)
    done = subprocess.run(
        [python, "-c", code],
        cwd=merged,
        env=os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    printed = (done.stdout + done.stderr).splitlines()
    wrong = [line for line in printed if "ERROR" in line]
    assert done.returncode == 0, "\n".join(wrong or printed)


CONSISTENCY = """
import pytest
assert pytest.main(["-q", "tests/consistency/test_{}.py"]) == 0
"""
DOCSTRINGS = """
from tests.utils.check_docstrings import check_docstrings
assert check_docstrings(".", {})
"""
RECIPES = """
from tests.utils.recipe_tests import run_recipe_tests
assert run_recipe_tests(filters_fields=["Hparam_file"], filters=[{}])
"""


@pytest.mark.stock
@pytest.mark.parametrize(
    "code",
    [
        CONSISTENCY.format("recipe"),
        CONSISTENCY.format("yaml"),
        DOCSTRINGS.format(own_scripts("speechbrain_ext", "recipes")),
    ],
    ids=["recipe", "yaml", "docstrings"],
)
def test_speechbrains_checks(merged, code):
    in_merged(merged, code)


@pytest.mark.stock
@pytest.mark.parametrize("name", ROWS)
def test_speechbrains_recipe_tests(merged, name):
    """All our rows run, some of them on what those before left."""
    pytest.importorskip("espeakng_loader")
    in_merged(
        merged, RECIPES.format([row["Hparam_file"] for row in ROWS[name]])
    )
