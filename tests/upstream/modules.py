"""Modules of SpeechBrain that are made of ours.

Of the text of one of our modules, as it is: names that SpeechBrain does not
need are left out, imports follow the modules to their new places, and errors
are those that SpeechBrain raises. So there is one truth, which our own tests
look at too.
"""

import ast
import re
from pathlib import Path

import speechbrain_ext
from speechbrain_ext.utils.errors import InputError

PACKAGE = Path(speechbrain_ext.__file__).parent
LINE = 80
# What users of ours get as one line is an error in the call of a library.
ERRORS = "speechbrain_ext.utils.errors"
ERROR = re.compile(rf"\b({re.escape(ERRORS)}\.)?InputError\b")
AUTHORS = "\n\nAuthors\n * @AUTHORS@\n"


def made_of(source, without, names):
    """The text of a module.

    Arguments
    ---------
    source : str
        Path of one of ours, in speechbrain_ext.
    without : list of str
        Functions, classes, methods ("Class.method") and top-level values that
        are left out.
    names : dict
        Modules of ours -> what they are called in SpeechBrain.

    Returns
    -------
    str

    Raises
    ------
    InputError
        There is no such name, or a module is imported that has no other name.

    Example
    -------
    >>> text = made_of("utils/windows.py", ["mean_of_windows"], {})
    >>> "def windows(" in text, "import torch" in text, "Authors" in text
    (True, False, True)
    """
    text = (PACKAGE / source).read_text(encoding="utf-8")
    try:
        text = ERROR.sub("ValueError", leave_out(text, without))
        text = import_anew(text, names)
    except InputError as error:
        raise InputError(f"speechbrain_ext/{source}: {error}")
    for ours, theirs in names.items():
        text = re.sub(rf"\b{re.escape(ours)}\b", theirs, text)
    docstring = ast.parse(text).body[0]
    lines = text.splitlines(keepends=True)
    head = "".join(lines[: docstring.end_lineno]).rstrip()
    head = head.removesuffix('"""').rstrip() + AUTHORS + '"""\n'
    text = head + "".join(lines[docstring.end_lineno :])
    if left := re.search(r"\bspeechbrain_ext\.[\w.]+", text):
        raise InputError(
            f"speechbrain_ext/{source}: it names {left[0]}, which is in no part"
        )
    return text


def leave_out(text, without):
    """A text without some definitions, and the comments above them.

    Example
    -------
    >>> print(leave_out("a = 1\\n\\n\\n# Why\\ndef f():\\n    pass\\n", ["f"]))
    a = 1
    <BLANKLINE>
    """
    found = definitions(ast.parse(text))
    lines, gone = text.splitlines(keepends=True), set()
    for name in without:
        if name not in found:
            raise InputError(f"it has no {name} that could be left out")
        node = found[name]
        first = min(
            one.lineno for one in [node, *getattr(node, "decorator_list", [])]
        )
        while re.match(r"\s*(#|$)", lines[first - 2]):
            first -= 1
        gone.update(range(first, node.end_lineno + 1))
    return "".join(
        line for number, line in enumerate(lines, 1) if number not in gone
    )


def definitions(tree):
    """Top-level names, and those of classes, with what defines them."""
    found = {}
    for node in tree.body:
        for name in names_of(node):
            found[name] = node
            for inner in getattr(node, "body", []):
                for member in names_of(inner):
                    found[f"{name}.{member}"] = inner
    return found


def names_of(node):
    """What a statement defines."""
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    return [node.name] if hasattr(node, "name") else []


def import_anew(text, names):
    """Imports that are used, sorted, from the modules' new places."""
    tree = ast.parse(text)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    lines, own, gone = text.splitlines(keepends=True), [], set()
    for node in tree.body:
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        kept = [
            one
            for one in node.names
            if (one.asname or one.name.partition(".")[0]) in used
        ]
        module = getattr(node, "module", None) or ""
        if module == ERRORS:
            kept = [one for one in kept if one.name != "ValueError"]
        if kept and module.startswith("speechbrain_ext."):
            if module not in names:
                raise InputError(
                    f"it imports {kept[0].name} of {module}, which is in no "
                    "part: add this module to one, or leave out what uses it"
                )
            module = names[module]
        if module.startswith("speechbrain"):
            if kept:
                own.append((module, sorted(one.name for one in kept)))
        elif len(kept) == len(node.names):
            continue
        gone.update(range(node.lineno, node.end_lineno + 1))
        if kept and not module.startswith("speechbrain"):
            raise InputError(f"of line {node.lineno} only some names are used")
    last = max((node.end_lineno for node in imports(tree)), default=0)
    before, after = lines[:last], lines[last:]
    before = [
        line for number, line in enumerate(before, 1) if number not in gone
    ]
    head = re.sub(r"\n{3,}", "\n\n", "".join(before)).rstrip("\n") + "\n"
    if own:
        head += "\n" + "".join(statement(*one) for one in sorted(own))
    body = "".join(after).lstrip("\n")
    gap = "\n\n" if re.match(r"(@|def |class )", body) else "\n"
    return head + gap + body


def imports(tree):
    """Statements at the top level that import."""
    return [
        node
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]


def statement(module, names):
    """One import, over several lines where it is long.

    Example
    -------
    >>> print(statement("speechbrain.utils.windows", ["windows"]), end="")
    from speechbrain.utils.windows import windows
    """
    line = f"from {module} import {', '.join(names)}\n"
    if len(line) <= LINE + 1:
        return line
    return f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)\n"
