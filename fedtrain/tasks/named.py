"""Import what a configuration names as ``module:attribute``."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fedtrain.errors import TaskError
from fedtrain.tasks.user_code import described


def load_named(field: str, name: str, *, example: str, makes: str) -> Callable[..., Any]:
    """Import the callable that the name ``module:attribute`` means.

    Args:
        field: the configuration field that holds the name.
        name: the name.
        example: a name as it may be, for an error.
        makes: what the callable takes and returns, for an error.

    Raises:
        TaskError: the name is of another form, or what it names is not there, cannot be imported or called.
    """
    module_name, attribute = name.split(":", 1)
    parts = [*module_name.split("."), attribute]
    if module_name.endswith(".py") or not all(part.isidentifier() for part in parts):
        raise TaskError(f'{field} = "{name}" is not of the form "module:attribute", for example "{example}".')
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise TaskError(
                f'{field} = "{name}": there is no module "{error.name}" on Python\'s path; check the spelling, or '
                "put the file into the current folder, or beside the pyproject.toml of your own app."
            ) from None
        raise TaskError(f'{field} = "{name}": importing "{module_name}" raised {described(error)}.') from error
    if not hasattr(module, attribute):
        defined = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
        raise TaskError(
            f'{field} = "{name}": the module "{module_name}" has no "{attribute}"; '
            f"it defines: {', '.join(defined) or 'nothing that can be called'}.{_shadowed(module, module_name)}"
        )
    factory: object = getattr(module, attribute)
    if not callable(factory):
        raise TaskError(
            f'{field} = "{name}" is of type {type(factory).__name__}, which cannot be called; it must be a function '
            f"or class that {makes}."
        )
    return factory


def _shadowed(module: ModuleType, name: str) -> str:
    """Say where a file of the user's lies that Python passes over for another module of its name."""
    own, found = Path.cwd() / f"{name.replace('.', '/')}.py", getattr(module, "__file__", None)
    if not own.is_file() or (found is not None and Path(found).resolve() == own.resolve()):
        return ""
    return f" Python has a module of that name itself, and {own} is passed over: give the file another name."
