"""Named option files of ``hparams/``, found in a checkout and in a wheel."""

import contextlib
import dataclasses
import functools
import inspect
import json
import platform
import pydoc
import re
import sys
from importlib.metadata import version
from pathlib import Path

import ruamel.yaml
import yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references

import speechbrain as sb
import speechbrain_ext
from speechbrain.utils.distributed import infer_device
from speechbrain.utils.run_opts import RunOptions
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import write_text
from speechbrain_ext.utils.options import (
    MayLack,
    Tagged,
    check_name,
    check_options,
)

# Whose versions a run keeps.
PACKAGES = ("speechbrain", "torch", "transformers", "numpy", "scikit-learn")


def hparams_folder():
    """The folder of the named option files.

    Returns
    -------
    pathlib.Path
        ``speechbrain_ext/hparams`` of an installed wheel, or ``hparams``
        beside the package in a checkout (editable install).

    Raises
    ------
    InputError
        If neither is there.

    Example
    -------
    >>> (hparams_folder() / "encoders" / "log_mel.yaml").is_file()
    True
    """
    return installed_folder("hparams", "hparams", "encoders")


def installed_folder(inside, beside, holds):
    """A folder that a wheel carries, and that a checkout has elsewhere.

    Arguments
    ---------
    inside : str
        Its place in the package.
    beside : str
        Its place in a checkout (editable install).
    holds : str
        A file or folder in it.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputError
        If it is at neither place.

    Example
    -------
    >>> installed_folder("x", "y", "z")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: No x/ in ... or y/ beside it: ...
    """
    package = Path(speechbrain_ext.__file__).resolve().parent
    for folder in (package / inside, package.parent / beside):
        if (folder / holds).exists():
            return folder
    raise InputError(
        f"No {inside}/ in {package} or {beside}/ beside it: the installation "
        "of speechbrain_ext is incomplete; install it again with pip"
    )


def find_hparams(group, name):
    """Resolve an option file by name or by path.

    HyperPyYAML takes no reference in the path of an ``!include:``, so a file
    that is chosen on the command line is resolved here.

    Arguments
    ---------
    group : str
        A folder of ``hparams/``, e.g. ``"encoders"``.
    name : str
        A name in that folder without ``.yaml``, or the path of a YAML file.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InputError
        If there is no such file; names those that exist.

    Example
    -------
    >>> find_hparams("encoders", "log_mel").name
    'log_mel.yaml'
    """
    folder = hparams_folder() / group
    for path in (folder / f"{name}.yaml", Path(str(name)).expanduser()):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path
    known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
    raise InputError(
        f"Unknown name '{name}' for hparams/{group}: expected one of {known}, "
        "or the path of an existing .yaml file"
    )


# What HyperPyYAML says of tags and of their arguments.
SAID = (
    "Invalid argument to|There is no such|The reference|Circular reference"
    "|argument of type|!(new|name|apply|applyref|module):|Cannot pass args"
)


class _Plain(yaml.SafeLoader):
    """Makes no object: HyperPyYAML gives the base class tags that do."""

    yaml_multi_constructors = {}


def _make_nothing(loader, _, node):
    """The arguments of a tag in place of what it makes."""
    if isinstance(node, yaml.MappingNode):
        return Tagged(loader.construct_mapping(node, deep=True))
    if isinstance(node, yaml.SequenceNode):
        return Tagged(enumerate(loader.construct_sequence(node, deep=True)))
    return Tagged()


_Plain.add_multi_constructor("!", _make_nothing)


def read_plain(text):
    """YAML without its objects, a :class:`Tagged` dict in the place of each.

    Not by ``yaml.safe_load``: HyperPyYAML teaches that to make objects.

    Example
    -------
    >>> read_plain("a: !apply:os.system [ls]")
    {'a': {0: 'ls'}}
    """
    return yaml.load(text, Loader=_Plain)


def parse_arguments(arguments):
    """SpeechBrain's ``parse_arguments``, with values as they were given.

    It would glue a word that follows a value to that value, and lose every
    ``=`` in it; YAML would cut a text where ``#`` begins a word.

    Arguments
    ---------
    arguments : list of str
        The command line, without the script.

    Returns
    -------
    path : str
        The option file.
    run_opts : speechbrain.utils.run_opts.RunOptions
        SpeechBrain's own options. Where no device was given, that which a
        Brain would take: what encodes without one needs it too.
    overrides : str
        All others, as YAML.

    Raises
    ------
    InputError
        If a word belongs to no option.

    Example
    -------
    >>> parse_arguments(["train.yaml", "--output_folder=a #1", "--seed=1"])[2]
    'output_folder: "a #1"\\nseed: 1'
    """
    path, run_opts, _ = sb.parse_arguments(arguments)
    device = run_opts.device or infer_device()
    run_opts = dataclasses.replace(run_opts, device=device)
    # The only number that SpeechBrain leaves a text
    limit = run_opts.optimizer_step_limit
    if limit is not None and limit.isdecimal():
        number = {"optimizer_step_limit": int(limit)}
        run_opts = dataclasses.replace(run_opts, **number)
    options = []
    for word in RunOptions._create_parser().parse_known_args(arguments)[1]:
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            options.append((name, value if has_value else None))
        elif options and options[-1][1] is None:
            options[-1] = (options[-1][0], word)
        else:
            raise InputError(
                f"'{word}' belongs to no option: expected --name=value, in "
                "quotes where the value has blanks"
            )
    lines = [
        f"{name}: {_uncut(value or '')}".strip() for name, value in options
    ]
    return path, run_opts, "\n".join(lines)


def _uncut(value):
    """A value of the command line, in quotes where YAML would cut it."""
    # Lists, mappings and what has quotes are YAML's.
    text = re.fullmatch(r"""(!\S+\s+)?([^\[{"'!].*\s#.*|#.*)""", value)
    if text is None:
        return value
    return (text[1] or "") + json.dumps(text[2], ensure_ascii=False)


def load_hparams(path, overrides=None, rules=None, debug=None):
    """Load a recipe's option file; what a user can mend is an InputError.

    The folder above ``hparams/`` becomes importable, so that an option file
    can name the functions of its own recipe (``!name:crema_d_prepare...``)
    even where the script is a link to that of another recipe.

    Arguments
    ---------
    path : str or Path
        A HyperPyYAML file.
    overrides : str or dict
        From :func:`parse_arguments`.
    rules : dict
        What :func:`~speechbrain_ext.utils.options.check_options` checks
        before any object is made.
    debug : str, optional
        Folder in ``output_folder``, which may be ``.``: the options of the
        file's key ``smoke_run`` are taken, and results go there.

    Returns
    -------
    dict
        The loaded options.

    Raises
    ------
    InputError
        If the file is missing, damaged or lacks an option, an option is
        unknown, does not fit the file or breaks its rule, or one that has no
        default was not given.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.yaml"
    >>> _ = path.write_text("seed: 1")
    >>> load_hparams(path, "sede: 2")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: Unknown option --sede: did you \
mean --seed?
    """
    recipe = str(Path(path).resolve().parent.parent)
    if recipe not in sys.path:
        sys.path.append(recipe)
    smaller = (lambda value: type(value) is dict, "{option: value}")
    first = {"smoke_run": smaller} if debug else rules
    plain = plain_hparams(path, overrides, first)
    if debug:
        overrides, smaller = _smoke_run(plain, overrides, debug)
        plain_hparams(path, overrides, rules)
    with _mendable(path), open(path, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    if debug:
        hparams["smoke_run"] = smaller
    for name, value in hparams.items():
        if isinstance(value, functools.partial):
            known = inspect.signature(value.func).parameters
            if not any(one.kind is one.VAR_KEYWORD for one in known.values()):
                for argument in value.keywords:
                    check_name(f"{name} takes no", argument, known)
    return hparams


def _smoke_run(plain, overrides, folder):
    """Overrides of a smoke run, and what it adds to those of the user."""
    given = _given(overrides)
    added = {k: v for k, v in plain["smoke_run"].items() if k not in given}
    added["output_folder"] = str(Path(plain["output_folder"], folder))
    # Not parsed to Python: the user's may have tags.
    node = yaml.compose(overrides) or yaml.MappingNode("", [])
    kept = [pair for pair in node.value if pair[0].value not in added]
    text = yaml.serialize(yaml.MappingNode(node.tag, kept)) if kept else ""
    return yaml.safe_dump(added) + text, added


def plain_hparams(path, overrides=None, rules=None):
    """The options of a file, checked and resolved, with no object made.

    Arguments
    ---------
    path, overrides, rules
        As of :func:`load_hparams`, as is what is raised.

    Returns
    -------
    dict
        A :class:`Tagged` dict of the arguments stands for an object.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.yaml"
    >>> _ = path.write_text("seed: 1\\nmodel: !new:Model {seed: !ref <seed>}")
    >>> plain_hparams(path, "seed: 2")
    {'seed': 2, 'model': {'seed': 2}}
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"No option file {path}: give a .yaml of hparams/")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}): save it as UTF-8")
    options = dict(re.findall(r"^([\w-]+):(.*)", text, re.MULTILINE))
    missing = [
        name
        for name, rule in (rules or {}).items()
        if not ("." in name or name in options or isinstance(rule, MayLack))
    ]
    if missing or not options:
        raise InputError(
            f"{path} has no option {missing[0] if options else 'at all'}: take "
            "the recipe's own .yaml of hparams/, or copy what is missing"
        )
    given = _given(overrides or {})
    for name in given:
        check_name("Unknown option", f"--{name}", [f"--{o}" for o in options])
    for name, value in options.items():
        if value.strip().startswith("!PLACEHOLDER") and name not in given:
            raise InputError(f"{path} needs --{name}{value.partition('#')[2]}")
    with _mendable(path), open(path, encoding="utf-8") as file:
        plain = read_plain(resolve_references(file, overrides))
    check_options(plain, rules or {})
    return plain


@contextlib.contextmanager
def _mendable(path):
    """Turn what HyperPyYAML says of an option file into InputErrors."""
    try:
        yield
    except (yaml.YAMLError, ruamel.yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as YAML: {problem}")
    except RecursionError:
        raise InputError(f"{path}: a !ref leads to itself")
    except pydoc.ErrorDuringImport as error:
        raise InputError(f"{path}: {error}")
    except (TypeError, ValueError, ImportError) as error:
        said = str(error.args[0]) if error.args else ""
        if re.match(SAID, said):
            raise InputError(f"{path}: {'; '.join(map(str, error.args))}")
        # {key: value} where the file has none. Other causes have no override.
        if said.startswith("The structure of the overrides"):
            raise InputError(
                f"An option was given as {{key: value}} that is not such a "
                f"thing in {path}: {error.args[1]}"
            )
        raise


def _given(overrides):
    """Names of the options that are set; the values may have any tag."""
    if isinstance(overrides, dict):
        return {name for name, value in overrides.items() if value is not None}
    try:
        node = yaml.compose(overrides)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise InputError(f"The options cannot be read as YAML: {problem}")
    given = set()
    for key, value in node.value if node else []:
        # HyperPyYAML would keep the tag of the file, or fail.
        if value.tag.startswith("!") and isinstance(value, yaml.MappingNode):
            raise InputError(
                f"--{key.value}: after {value.tag} HyperPyYAML takes no "
                "{key: value} from the command line: give the arguments as a "
                "list, [first, second], or in an option file"
            )
        if key.value in given:
            raise InputError(f"Option --{key.value} is given twice")
        given.add(key.value)
    return given


def save_hparams(folder, path, overrides):
    """Keep the options of a run in its folder, as hyperparams.yaml.

    Above them stand the option file, the versions of some packages and what
    was given on the command line. SpeechBrain would do so before it is known
    that the folder is this run's.

    Arguments
    ---------
    folder : str or Path
        The run's.
    path, overrides : str
        Of :func:`parse_arguments`.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "train.yaml").write_text("seed: 1")
    >>> save_hparams(folder, folder / "train.yaml", "seed: 2")
    >>> (folder / "hyperparams.yaml").read_text().splitlines()[2:]
    ['# --seed: 2', '# yamllint disable', 'seed: 2']
    """
    with open(path, encoding="utf-8") as file:
        text = resolve_references(file, overrides).getvalue()
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in PACKAGES]
    head = [f"From {Path(path).absolute()}", f"With {', '.join(versions)}"]
    head += [f"--{line}" for line in overrides.splitlines()]
    head += ["yamllint disable"]
    text = "".join(f"# {line}\n" for line in head) + text
    write_text(Path(folder, "hyperparams.yaml"), text)


def describe(value):
    """What determines an option of a YAML file, JSON-able.

    Arguments
    ---------
    value : object
        A plain value; a function or class of ``!name:``, described by its name
        and arguments; or an object that has an ``identity`` or a ``config``.

    Returns
    -------
    object

    Example
    -------
    >>> import functools
    >>> describe(functools.partial(int, base=2)), describe([1])
    ({'name': 'builtins.int', 'base': 2}, [1])
    """
    for name in ("identity", "config"):
        if isinstance(found := getattr(value, name, None), dict):
            return found
    if not callable(value):
        return value
    made = getattr(value, "func", value)
    arguments = getattr(value, "keywords", {})
    return {"name": f"{made.__module__}.{made.__qualname__}"} | {
        key: describe(argument) for key, argument in arguments.items()
    }


def run_label(*parts):
    """A name for files and folders from options such as encoder and source.

    Arguments
    ---------
    *parts : str or None
        Names, paths or hub ids; of a path or an id the last part counts.

    Returns
    -------
    str
        The parts joined by ``-``, of letters, digits, ``.``, ``_`` and ``-``.

    Example
    -------
    >>> run_label("hf_encoder", "/models/moonshine-tiny-en/", None)
    'hf_encoder-moonshine-tiny-en'
    """
    names = [Path(str(part)).name for part in parts if part]
    names = [name.removesuffix(".yaml") for name in names]
    return re.sub(r"[^\w.-]+", "_", "-".join(names))
