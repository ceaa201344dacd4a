import importlib
import pkgutil
import re

import pytest

import fedtrain
from fedtrain import errors


def drawn():
    """Return each class of the tree in the docstring with its parent and the exit status that stands beside it."""
    path, found = [], {}
    for prefix, name, rest in re.findall(
        r"^    ((?:[| ]   )*(?:\+-- )?)([A-Z]\w+Error)\b(.*)$", errors.__doc__, re.MULTILINE
    ):
        depth = len(prefix) // 4
        path[depth:] = [name]
        status = re.search(r"\(exit status (\d)\)", rest)
        found[name] = (path[depth - 1] if depth else None, status and int(status[1]))
    return found


def descendants(kind):
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def test_the_docstring_draws_every_error_of_the_package_below_its_parent():
    for module in pkgutil.walk_packages(fedtrain.__path__, "fedtrain."):
        importlib.import_module(module.name)
    classes = [errors.FedtrainError, *descendants(errors.FedtrainError)]
    ours = {kind.__name__: kind.__base__.__name__ for kind in classes if kind.__module__.startswith("fedtrain.")}
    tree = drawn()
    assert {name: parent for name, (parent, _) in tree.items()} == ours | {"FedtrainError": None}


@pytest.mark.parametrize("name", [name for name, (_, status) in drawn().items() if status is not None])
def test_the_exit_status_in_the_tree_is_that_of_the_class(name):
    assert getattr(errors, name).exit_status == drawn()[name][1]
