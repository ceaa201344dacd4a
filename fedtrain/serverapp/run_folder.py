"""The run folder: everything that a run leaves behind."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w
from safetensors import SafetensorError
from safetensors.numpy import load

from fedtrain.config import Experiment, to_flat
from fedtrain.config.loading import nested
from fedtrain.errors import ConfigError, KeyFileError, StorageError
from fedtrain.files import append_bytes, rewrite_lines, write_atomic
from fedtrain.machines.starts import LEFT, clear, count_start, discard, held
from fedtrain.report import ModelFile, Report
from fedtrain.serverapp.checkpoint import Arrays, RunState, check_checkpoint, check_model_file, encode_model
from fedtrain.serverapp.history import HistoryError, lines_after
from fedtrain.serverapp.identity import RunIdentity, check_configuration, check_identity
from fedtrain.status.lines import FILE as EVENTS

if TYPE_CHECKING:
    from fedtrain.report.inputs import Inputs

# The newest may be damaged by the machine itself, so one more is kept.
_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a run writes. Every file is replaced atomically, so that a kill or a full disk loses at most a round."""

    path: Path

    @property
    def metrics(self) -> Path:
        """One JSON object for each central evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """What happens in the run, a line for each event."""
        return self.path / EVENTS

    @property
    def record(self) -> Path:
        """The server's signed record of a private run."""
        return self.path / "record.jsonl"

    @property
    def config(self) -> Path:
        """The configuration of the run. With it the folder holds a run."""
        return self.path / "config.toml"

    @property
    def starts(self) -> Path:
        """The id of a run without a record, and how often the server was started."""
        return self.path / "starts.json"

    @property
    def identity(self) -> Path:
        """What the run is about."""
        return self.path / "identity.json"

    @property
    def membership(self) -> Path:
        """The members of the run's federation, as its operator signed them."""
        return self.path / "membership.json"

    def started(self) -> tuple[str, int]:
        """Count a start of the server; return the id of a run without a record, and which start this is, from 1.

        Raises:
            StorageError: it cannot be read or written.
        """
        return count_start(self.starts)

    @property
    def key(self) -> Path:
        """The server's identity key."""
        return self.path / "keys" / "server.pem"

    @property
    def history(self) -> Path:
        """The history that checkpoints go by: a line for each round and each evaluation."""
        return self.path / "checkpoints" / "history.jsonl"

    @property
    def data_key(self) -> Path:
        """The key of the digests of the run's records."""
        return self.path / "keys" / "records.key"

    @property
    def roster(self) -> Path:
        """The public keys of server and clients, in a run that signs or encrypts."""
        return self.path / "roster.json"

    @property
    def html(self) -> Path:
        """The report for people."""
        return self.path / "report.html"

    @classmethod
    def of(cls, experiment: Experiment) -> "RunFolder":
        """Return the folder of a new run, or of one to be resumed. Nothing is written.

        Raises:
            ConfigError: it is a file, or in one; or it holds a run and ``resume`` is not set, or a run of another
                configuration, or checkpoints or a record without a configuration, or what belongs to something else;
                or ``resume`` is set without a folder.
            KeyFileError: a key of the run is gone.
        """
        if experiment.output.resume and experiment.output.directory is None:
            raise ConfigError(
                "output.resume is set and output.directory is not: name the run folder to go on in (--out)"
            )
        name = experiment.output.directory or f"runs/{experiment.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        folder = cls(path=Path(name))
        folder._check(experiment)
        return folder

    def _check(self, experiment: Experiment) -> None:
        """Refuse to begin a run, or to go on with one, that the folder does not hold."""
        nearest = next((each for each in (self.path, *self.path.parents) if each.exists()), None)
        if nearest is not None and not nearest.is_dir():
            raise ConfigError(
                f"{nearest} is a file, so that {self.path} can be no folder: name another one with output.directory "
                "(--out)"
            )
        if self.config.exists():
            if not experiment.output.resume:
                raise ConfigError(
                    f"{self.path} holds a run already: continue it with output.resume (--resume), or name another "
                    "folder with output.directory (--out)"
                )
            check_configuration(self.config, experiment)
            self._check_keys()
        elif left := "checkpoints" if self._checkpoints() else "a record" if self.record.exists() else "":
            raise ConfigError(
                f"{self.path} holds {left} and no config.toml, which says what run that is of: put it back, or name "
                "another folder with output.directory (--out)"
            )
        else:
            self._refuse_others()

    def _refuse_others(self) -> None:
        """Refuse a folder with files of the names that a start writes, and takes away, where no start wrote them."""
        found = [name for name in LEFT if name != "keys/records.key" and (self.path / name).exists()]
        if not found:
            return
        try:
            RunIdentity.decode(self.identity.read_bytes())
        except (OSError, StorageError) as error:
            raise ConfigError(
                f"{self.path} holds {found[0]} and no run, as the folder of a server or a node does: name another "
                "folder with output.directory (--out)"
            ) from error

    @classmethod
    def open(cls, experiment: Experiment) -> "RunFolder":
        """Make the folder of a new run, or open that of a run to be resumed.

        Raises:
            ConfigError, KeyFileError: as `of`.
            StorageError: the folder cannot be made.
        """
        folder = cls.of(experiment)
        if folder.config.exists():
            return folder
        try:
            (folder.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the run folder {folder.path}: {error.strerror or error}") from error
        return folder

    @contextmanager
    def held(self, experiment: Experiment) -> Iterator[None]:
        """Hold the folder for this process alone.

        Raises:
            ConfigError: another process holds it; or as `of`, since it did.
        """
        with held(self.path):
            self._check(experiment)
            yield

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Take away what was written of a start that fails before a run began, so that its name is free again.

        So is what a start left that was killed.
        """
        try:
            if not self.config.exists():
                self._clear()
            yield
        except BaseException:
            if not self.config.exists():
                with suppress(OSError):  # what failed is what is to be told
                    self.discard()
            raise

    def _clear(self) -> None:
        try:
            clear(self.path)
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot take away what is left of a start in {self.path}: {error.strerror or error}"
            ) from error

    def discard(self) -> None:
        """Take away what a start writes before a run begins."""
        discard(self.path)

    def begin(self, experiment: Experiment) -> None:
        """Note the configuration: from here on the folder holds a run, which is resumed and not begun again.

        Called when the clients are there, and before anything is recorded or asked of them.

        Raises:
            StorageError: it cannot be written.
        """
        if not self.config.exists():
            write_atomic(self.config, tomli_w.dumps(nested(to_flat(experiment))).encode())

    def _check_keys(self) -> None:
        """Refuse to go on without a key, before another is made in its place, with which nothing of before holds."""
        if self.identity.exists() and not self.data_key.exists():
            raise KeyFileError(
                f"{self.data_key} is gone, the key of the digests in {self.identity}: without it nobody can tell "
                "whether the records are those of before. Put it back, or begin another run in another folder (--out)"
            )
        # In a deployment the server has its identity elsewhere, and the run folder its members.
        if self.roster.exists() and not self.membership.exists() and not self.key.exists():
            raise KeyFileError(
                f"{self.key} is gone, the server's key, which {self.roster} names. Put it back, or begin another run "
                "in another folder (--out)"
            )

    def check_identity(self, now: RunIdentity) -> str:
        """Check that a resumed run is about what it was about before, and note what a new one is about.

        Returns:
            What a person should know, empty where there is nothing: a run of an earlier version has no such note, and
            what it is about now is taken for what it was about before.

        Raises:
            ConfigError: the records, the model or the task are others; it names which.
            StorageError: the note cannot be read or written.
        """
        return check_identity(self.identity, now, begun=bool(self._checkpoints()))

    def save_checkpoint(self, state: RunState) -> RunState:
        """Write the history and the checkpoint of a round, then drop the checkpoints that are no longer kept.

        Returns:
            The state, which knows how much of its history is in the file.

        Raises:
            StorageError: it cannot be written, or not be read back; the previous checkpoints are kept.
        """
        path = self.path / "checkpoints" / f"round-{state.round_number:06d}.safetensors"
        lines, mark = lines_after(state.mark, state.evaluations, state.round_log)
        append_bytes(self.history, lines, at=state.mark.length)
        state = replace(state, mark=mark)
        write_atomic(path, state.encode())
        try:
            _read_back(path, check_checkpoint)
        except StorageError:
            path.unlink(missing_ok=True)
            raise
        for old in self._checkpoints()[:-_KEPT_CHECKPOINTS]:
            old.unlink(missing_ok=True)
        return state

    def load_checkpoint(self) -> RunState | None:
        """Return the newest checkpoint, ``None`` if there is none.

        Raises:
            StorageError: it cannot be read.
        """
        checkpoints = self._checkpoints()
        if not checkpoints:
            return None
        try:
            history = self.history.read_bytes() if self.history.exists() else b""
            return RunState.decode(checkpoints[-1].read_bytes(), history)
        except HistoryError as error:
            raise StorageError(
                f"cannot read {self.history}, which the checkpoint {checkpoints[-1]} goes by: {error}; put it back "
                "from a copy, or begin another run"
            ) from error
        except (OSError, StorageError) as error:
            raise StorageError(
                f"cannot read the checkpoint {checkpoints[-1]}: {error}; remove it to continue from the one before"
            ) from error

    def save_model(self, name: str, arrays: Arrays, second_names: Mapping[str, str] | None = None) -> ModelFile:
        """Write a model as ``model-NAME.safetensors``: the tensors of its state dict, each once.

        The file is read back. It holds the evaluated model bit for bit, so that what was measured is true of the file.

        Args:
            name: of the file.
            arrays: the weights.
            second_names: the further names of a weight that has several, and the one that it goes by. They are in the
                file's metadata, as ``safetensors.torch.save_model`` writes them, and its ``load_model`` loads the file.

        Raises:
            StorageError: it cannot be written, or holds something else.
        """
        path = self.path / f"model-{name}.safetensors"
        write_atomic(path, encode_model(arrays, second_names or {}))
        data = _read_back(path, lambda data: check_model_file(data, arrays))
        return ModelFile(file=path.name, sha256=sha256(data).hexdigest())

    def load_model(self, name: str) -> Arrays:
        """Return the weights that `save_model` wrote.

        Raises:
            StorageError: they cannot be read.
        """
        path = self.path / f"model-{name}.safetensors"
        try:
            return dict(load(path.read_bytes()))
        except (OSError, SafetensorError) as error:
            raise StorageError(f"cannot read the model {path}: {error}") from error

    def model_file(self, name: str) -> ModelFile | None:
        """Return a model that was written before."""
        path = self.path / f"model-{name}.safetensors"
        if not path.exists():
            return None
        return ModelFile(file=path.name, sha256=sha256(path.read_bytes()).hexdigest())

    def save_matrices(self, arrays: Arrays) -> ModelFile | None:
        """Write what is too large for the report as ``matrices.safetensors``; ``None`` if there is nothing.

        Raises:
            StorageError: it cannot be written, or holds something else.
        """
        path = self.path / "matrices.safetensors"
        if not arrays:
            path.unlink(missing_ok=True)
            return None
        write_atomic(path, encode_model(arrays, {}))
        data = _read_back(path, lambda data: check_model_file(data, arrays))
        return ModelFile(file=path.name, sha256=sha256(data).hexdigest())

    def save_inputs(self, inputs: "Inputs") -> None:
        """Write what the model takes and returns."""
        write_atomic(self.path / "inputs.json", inputs.encode())

    def save_metrics(self, records: Iterable[dict[str, object]]) -> None:
        """Replace ``metrics.jsonl``: a resumed run starts from the lines of its checkpoint."""
        rewrite_lines(self.metrics, records)

    def save_report(self, report: Report, html: str) -> None:
        """Write the report for machines and for people."""
        write_atomic(self.path / "report.json", report.model_dump_json(indent=1).encode())
        write_atomic(self.html, html.encode())

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("round-*.safetensors"))


def _read_back(path: Path, check: Callable[[bytes], object]) -> bytes:
    """Return the bytes of a file that was just written, if they are what they should be.

    Raises:
        StorageError: they are not, or cannot be read.
    """
    try:
        data = path.read_bytes()
        check(data)
    except (OSError, StorageError) as error:
        raise StorageError(f"{path} was written, and cannot be used: {error}") from error
    return data
