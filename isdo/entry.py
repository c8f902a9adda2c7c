"""``module:callable``, as uvicorn and gunicorn name an application: imported, and called for what
it returns."""

import ast
import importlib
import os
import sys
import traceback
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """The parts of ``module:attribute.attribute(arguments)``; the call may be left out."""

    text: str
    module: str
    attributes: tuple
    args: tuple = ()
    options: tuple = ()  # of (name, value)


def parse(text):
    """Return the Entry that a text names.

    Raises:
        ValueError: no colon, no names, or arguments that are no literals.
    """
    module, colon, call = text.partition(":")
    how = "write module:callable, or module:callable(arguments) with numbers and texts as arguments"
    if not colon:
        raise ValueError(f"{text!r} has no colon: {how}")
    if module.endswith(".py") or os.sep in module:
        raise ValueError(
            f"{module!r} is the name of a file: write {os.path.basename(module).removesuffix('.py')}:{call}"
        )
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{module!r} in {text!r} is no name of a module: {how}")
    try:
        node = ast.parse(call.strip(), mode="eval").body
        args, options = (), ()
        if isinstance(node, ast.Call):
            args = tuple(ast.literal_eval(value) for value in node.args)
            options = tuple(
                (part.arg, ast.literal_eval(part.value))
                for part in node.keywords
                if part.arg or _refuse()
            )
            node = node.func
        names = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        names.append(node.id if isinstance(node, ast.Name) else _refuse())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(f"{call!r} in {text!r} is no callable's name: {how}") from None
    return Entry(text, module, tuple(reversed(names)), args, options)


def _refuse():
    raise ValueError


def call(text):
    """Return what the callable that ``text`` names returns. The current folder is searched first,
    as uvicorn does.

    Raises:
        ValueError: what `parse` refuses, a module or attribute that is not there, something that is
            not callable, or anything that the module or the callable raised; the message says what
            and where.
    """
    entry = parse(text)
    thing = _imported(entry)
    for i, name in enumerate(entry.attributes):
        holder = ".".join((entry.module, *entry.attributes[:i]))
        try:
            thing = getattr(thing, name)
        except AttributeError:
            raise ValueError(
                f"{holder} has no {name!r}: write what it calls the function that {text!r} means"
            ) from None
    if not callable(thing):
        raise ValueError(
            f"{text} is a {type(thing).__name__}, which cannot be called: name a function or a class"
        )
    try:
        return thing(*entry.args, **dict(entry.options))
    except Exception as error:
        raise ValueError(f"calling {text} raised {said(error)}") from error


def _imported(entry):
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        if error.name and f"{entry.module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"no module {error.name!r} in this folder or on Python's path: go to its folder, or name that in PYTHONPATH"
            ) from None
        raise ValueError(f"importing {entry.module} raised {said(error)}") from error
    except Exception as error:
        raise ValueError(f"importing {entry.module} raised {said(error)}") from error


def said(error):
    """Return an exception as words: its kind, what it says, and the line that raised it."""
    ours = (
        __file__,
        importlib.__file__,
        "<frozen importlib._bootstrap>",
        "<frozen importlib._bootstrap_external>",
    )
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in ours
    ]
    where = (
        f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    )
    return f"{type(error).__name__}: {error}{where}"
