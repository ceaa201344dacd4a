"""What a run is about: its records, its model and its task, so that a resumed run goes on with the same.

The configuration names them and does not hold them: the records at a path, the file of a task and a model's sizes can
change between two starts. A run that went on with others would mix two test sets in one history.

Records are known by a keyed digest of all that was decoded. The key is beside the server's own in the run folder,
readable by its owner alone: a digest without a key would let a reader who guesses all records see whether the guess is
right, and no epsilon pays for that. Of the server's part of a deployment it is over the test records, since training
records are elsewhere; there each site's ledger knows its own.
"""

import ast
import hmac
import inspect
import json
import sys
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.util import resolve_name
from pathlib import Path
from secrets import token_bytes
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fedtrain.config import Experiment, read_toml, to_flat
from fedtrain.config.loading import decisive, spelled_out
from fedtrain.crypto import read_or_create_secret
from fedtrain.data import DataInfo, Split
from fedtrain.errors import ConfigError, StorageError
from fedtrain.files import write_atomic
from fedtrain.progress import working

if TYPE_CHECKING:
    from torch import nn

    from fedtrain.serverapp.preparation import Preparation
    from fedtrain.tasks import Task

_FORMAT = "fedtrain.identity/1"
_KEY_BYTES = 32
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What a run is about.

    Attributes:
        train: keyed digest of the training records and of who owns which; of none in a deployment.
        test: keyed digest of the test records.
        model: dtype and shape of each weight and buffer, by name.
        task: digest of the source of a task of one's own, of the encoder, and of the public weights of the model; empty
            for a built-in task without either.
    """

    train: str
    test: str
    model: dict[str, str]
    task: str

    @classmethod
    def of(cls, preparation: "Preparation", key_file: Path) -> Self:
        """Return what a run is about.

        Args:
            preparation: what was made before the first round.
            key_file: holds the key of the digests; it is made where there is none.

        Raises:
            KeyFileError: the key file cannot be used.
            StorageError: it cannot be written.
        """
        from fedtrain.tasks import held_by, weights_of  # noqa: PLC0415 - torch takes seconds to import, and the command reads this

        key = read_or_create_secret(key_file, lambda: token_bytes(_KEY_BYTES))
        store = preparation.store
        with working("computing the digest of the records"):
            train = _records_digest(store.info, store.train, store.owners, key)
            test = _records_digest(store.info, store.test, store.groups, key)
        state, encoder = weights_of(preparation.model), preparation.encoder.digest if preparation.encoder else ""
        source = source_digest(preparation.task, preparation.model)
        model = {name: f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}" for name, value in state.items()}
        held = held_by(preparation.model)
        return cls(train=train, test=test, model=model, task=f"{source}{encoder}{held.digest if held else ''}")

    def encode(self) -> bytes:
        """Return it as JSON."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read it.

        Raises:
            StorageError: it is none of this version.
        """
        try:
            found = json.loads(data)
        except ValueError as error:
            raise StorageError(f"it is not JSON: {error}") from error
        match found:
            case {
                "format": "fedtrain.identity/1",
                "train": str(train),
                "test": str(test),
                "model": dict(model),
                "task": str(task),
            } if all(isinstance(form, str) for form in model.values()):
                return cls(train=train, test=test, model=model, task=task)
        raise StorageError(f"it is not of the format {_FORMAT}")

    def differences(self, now: Self) -> list[str]:
        """Return in words what is another now."""
        found = []
        if self.train != now.train:
            found.append("the training records, or whom they belong to")
        if self.test != now.test:
            found.append("the test records or their groups")
        if self.model != now.model:
            names = [name for name in {**self.model, **now.model} if self.model.get(name) != now.model.get(name)]
            each = [
                f"{name} was {self.model.get(name, 'missing')} and is {now.model.get(name, 'missing')}"
                for name in names
            ]
            more = f", and {len(each) - _SHOWN} more" if len(each) > _SHOWN else ""
            order = "the order of its weights" if not names else "; ".join(each[:_SHOWN]) + more
            found.append(f"the model ({order})")
        elif list(self.model) != list(now.model):
            found.append("the model (the order of its weights)")
        if self.task != now.task:
            found.append("the source of the task, of its metrics or of its model, the encoder, or public weights")
        return found


def _records_digest(info: DataInfo, split: Split, names: tuple[str, ...], key: bytes) -> str:
    """Return a keyed digest (HMAC-SHA256) of records in their order, of their schema, and of their owners or groups."""
    codes = [each for each in (split.owners, split.groups) if each is not None]
    arrays: list[Any] = [split.features, split.targets, *codes]
    form = [info.as_json(), list(names), [[array.dtype.str, list(array.shape)] for array in arrays]]
    digest = hmac.new(key, json.dumps(form).encode(), "sha256")
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def check_identity(path: Path, now: RunIdentity, *, begun: bool) -> str:
    """Hold what a run is about against what it was about before; see `RunFolder.check_identity`.

    Args:
        path: where that is noted, in the run folder.
        now: what the run is about.
        begun: whether rounds of it are complete.
    """
    try:
        before = RunIdentity.decode(path.read_bytes())
    except FileNotFoundError:
        write_atomic(path, now.encode())
        if not begun:
            return ""
        return (
            f"{path.parent} is a run of an earlier version, which noted no digests of its records, model and task: "
            "whether they are those of before is not checked this time"
        )
    except (OSError, StorageError) as error:
        raise StorageError(f"cannot read {path}, which says what the run is about: {error}") from error
    if differences := before.differences(now):
        raise ConfigError(
            f"the run in {path.parent} cannot be resumed, since it would go on with something else: "
            f"{'; '.join(differences)} changed since it began. Put back what it was, or begin another run in "
            "another folder (--out)"
        )
    return ""


def check_configuration(before: Path, now: Experiment) -> None:
    """Refuse to go on with a run of another configuration.

    Fields that decide nothing of the result may change. A folder of an earlier version lacks the fields that came
    later; its run had their defaults.

    Args:
        before: the file of the run's configuration, in the run folder.
        now: the configuration to go on with.

    Raises:
        ConfigError: they differ; it names each field with both values.
    """
    was, wanted = spelled_out(to_flat(Experiment()) | read_toml(before)), spelled_out(decisive(now))
    changed = [
        f"{key} was {'unset' if was[key] == '' else repr(was[key])} and is {'unset' if value == '' else repr(value)}"
        for key, value in wanted.items()
        if was[key] != value
    ]
    if changed:
        raise ConfigError(
            f"the run in {before.parent} cannot be resumed with another configuration: {'; '.join(changed)}"
        )


def source_digest(task: "Task", model: "nn.Module") -> str:
    """Return the SHA-256 of the source that makes a task what it is; empty where all is fedtrain's or a library's.

    It is over the modules of the classes of the task, its metrics and the layers of its model, without comments and
    layout, and over the person's own modules that these import, and so on. Of a program's main module and of a
    notebook, whose other lines may change, it is over the classes alone.
    """
    metrics = task.metrics()
    kinds = {kind for each in (task, metrics, *model.modules()) for kind in type(each).__mro__}
    own = sorted((kind for kind in kinds if _is_own(kind)), key=lambda kind: (kind.__module__, kind.__qualname__))
    if not own:
        return ""
    parts = _imported({kind.__module__ for kind in own})
    for kind in own:
        whole = _module_source(kind.__module__)
        name = kind.__module__ if whole else f"{kind.__module__}.{kind.__qualname__}"
        parts[name] = whole or _class_source(kind)
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _is_own(kind: type) -> bool:
    """Say whether a class is neither of fedtrain, nor of Python, nor of an installed package."""
    return _is_own_module(kind.__module__)


def _is_own_module(name: str) -> bool:
    top = name.partition(".")[0]
    if top == "__main__":
        return True
    if top in {"fedtrain", "torch", "builtins"} or top in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is None or not {"site-packages", "dist-packages"} & set(Path(file).parts)


def _imported(names: set[str]) -> dict[str, str]:
    """Return the sources of modules, and of those of a person's own that they import, by name."""
    found: dict[str, str] = {}
    todo = sorted(names)
    while todo:
        name = todo.pop()
        if name not in found and (source := _module_source(name)):
            found[name] = source
            todo += sorted(each for each in _imports(name, source) if each in sys.modules and _is_own_module(each))
    return found


def _imports(name: str, source: str) -> set[str]:
    """Return the names of all that a module imports, modules and what is in them."""
    package = sys.modules[name].__package__ or ""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def _module_source(name: str) -> str:
    module = sys.modules.get(name)
    if module is None or name == "__main__":
        return ""
    try:
        return _normal(inspect.getsource(module))
    except (OSError, TypeError):
        return ""


def _class_source(kind: type) -> str:
    try:
        return _normal(inspect.cleandoc(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        functions = (value for _, value in sorted(vars(kind).items()) if isinstance(value, FunctionType))
        return repr([_code(function.__code__) for function in functions])


def _normal(source: str) -> str:
    return ast.unparse(ast.parse(source))


def _code(code: CodeType) -> tuple[object, ...]:
    """Return what a function does, without the file and the lines that it is from."""
    return code.co_name, code.co_code.hex(), code.co_names, code.co_varnames, tuple(map(_constant, code.co_consts))


def _constant(value: object) -> object:
    if isinstance(value, CodeType):
        return _code(value)
    # The order of a set is another in each process.
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)
