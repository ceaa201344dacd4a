"""A trained model in public formats, with a model card: safetensors, ONNX, and a description that its report proves.

from fedtrain import load_run
from fedtrain.export import export

export(load_run("runs/first"), "models/first")
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fedtrain.api import Run, audit_report
from fedtrain.config import from_flat
from fedtrain.data.types import DataInfo, Tokens, stored_shape
from fedtrain.errors import ConfigError, ReportError, StorageError, TaskError, UsageError
from fedtrain.files import write_atomic
from fedtrain.report.inputs import inputs_of
from fedtrain.report.model_card import Network, model_card
from fedtrain.tasks import Records, Task
from fedtrain.tasks.calls import collate
from fedtrain.tasks.column_statistics import ColumnStatistics
from fedtrain.tasks.user_code import telling

WEIGHTS: Final = "model.safetensors"
NETWORK: Final = "model.onnx"
CARD: Final = "README.md"
INPUTS: Final = "inputs.json"

_TRACED = 3  # records that a graph is made of, and
_TRIED = (1, 4)  # numbers of records that it is compared with torch on
_CLOSE = 1e-4  # largest difference of an output, of one and of its size


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        files: the names of the files in it.
        note: why there is no graph, or why it begins behind the encoding; empty otherwise.
    """

    folder: Path
    files: tuple[str, ...]
    note: str


def export(
    run: Run, out: str | Path, *, which: Literal["final", "best"] = "final", onnx: bool | None = None
) -> Exported:
    """Write a trained model into a folder that can be published.

    It has the weights as the run saved them (``model.safetensors``), the network as an ONNX graph (``model.onnx``),
    the description of what it takes and returns (``inputs.json``), and a model card (``README.md``) in the form of
    the Hugging Face hub: data, measurements with intervals, and the privacy statement, all from the report.

    The graph takes stored records where torch can write all of it, else what ``collate`` of the task makes of them. It
    is run by ONNX Runtime and compared with torch before it is kept.

    The report is audited first, and nothing is written of one that is refuted.

    Args:
        run: the run.
        out: the folder, which does not exist yet or is empty.
        which: the weights after the last round, or those of the best central evaluation.
        onnx: whether to write the graph; by default where the packages for it are installed and it can be written.

    Raises:
        UsageError: the run has no model that predicts.
        ConfigError: the folder is not empty, or a graph is wanted and its packages are not installed.
        ReportError: the report is refuted.
        TaskError: a graph is wanted and cannot be written.
        StorageError: the run has saved no such weights, or the folder cannot be written.
    """
    folder = _empty(Path(out))
    task, info = run.made_task(), run.info
    if isinstance(task, ColumnStatistics):
        raise UsageError(f'{run.path} is a run of task.name = "statistics", and has no model: see fedtrain stats')
    audited = _audited(run)
    model = run.model(which)
    network, graph, note = (
        (None, b"", "") if onnx is False else _network(task, model, run.encoded_info, must=onnx is True)
    )
    encoder = run.report.model.encoder
    inputs = inputs_of(from_flat(run.report.config), info, encoder_digest=None if encoder is None else encoder.digest)
    card = model_card(
        run.report,
        inputs,
        audited=audited,
        digest=sha256(_read(run.path / "report.json")).hexdigest(),
        weights=WEIGHTS,
        which=which,
        network=network,
    )
    content = {WEIGHTS: run.weights(which), INPUTS: inputs.encode(), CARD: card.encode()}
    if network is not None:
        content[NETWORK] = graph
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    for name, data in content.items():
        write_atomic(folder / name, data)
    return Exported(folder=folder, files=tuple(content), note=note)


def _empty(folder: Path) -> Path:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already, and nothing is overwritten: name another folder (--out)")
    return folder


def _audited(run: Run) -> str:
    """Return what an audit without keys from elsewhere says; empty of a run that guarantees nothing.

    Raises:
        ReportError: it refutes the report.
    """
    if run.report.proof is None:
        return ""
    verdict = audit_report(run)
    if verdict.outcome == "refuted":
        raise ReportError(
            f"{run.path / 'report.json'} is refuted by an audit, and a model card would repeat what it says. "
            f"{verdict.summary} See fedtrain audit"
        )
    return verdict.summary


class _Graph(nn.Module):
    """What is exported: from stored records, or from what the task makes of them, to what its forward returns."""

    def __init__(self, task: Task, model: nn.Module, targets: tuple[tuple[int, ...], torch.dtype] | None) -> None:
        super().__init__()
        self.task, self.model, self.targets = task, model, targets

    def forward(self, records: Tensor) -> Tensor:
        if self.targets is None:
            return self.task.forward(self.model, {"inputs": records})
        shape, dtype = self.targets
        targets = torch.zeros((records.shape[0], *shape), dtype=dtype)
        return self.task.forward(self.model, self.task.collate(Records(features=records, targets=targets), None))


def _network(task: Task, model: nn.Module, info: DataInfo, *, must: bool) -> tuple[Network | None, bytes, str]:
    """Return the graph and what it takes, or why there is none."""
    try:
        import onnxruntime  # noqa: F401, PLC0415 - an extra
        import onnxscript  # noqa: F401, PLC0415 - likewise
    except ImportError as error:
        if must:
            raise ConfigError(
                "an ONNX graph needs packages that are not installed: pip install 'fedtrain[export]'"
            ) from error
        return None, b"", "no model.onnx: pip install 'fedtrain[export]' for it"
    target = info.target
    stored = stored_shape(target, 0)[1:], torch.from_numpy(np.zeros(0, target.dtype)).dtype
    few, examples = _examples(info, _TRACED), {count: _examples(info, count) for count in _TRIED}
    reasons = []
    for takes, targets in (("records", stored), ("inputs", None)):
        graph = _Graph(task, model, targets).eval()
        made = _as_taken(task, few, stored) if targets is None else few
        tried = {count: _as_taken(task, each, stored) if targets is None else each for count, each in examples.items()}
        if made is None or None in tried.values():
            break
        try:
            data = _written(graph, made, takes)
            _compare(graph, data, {count: each for count, each in tried.items() if each is not None}, takes)
        except TaskError as error:
            reasons.append(str(error))
            continue
        shape = tuple(made.shape[1:])
        note = "model.onnx takes what is computed of a record, and not the record" if targets is None else ""
        return Network(file=NETWORK, takes=takes, shape=shape, dtype=str(made.dtype).removeprefix("torch.")), data, note
    reason = reasons[-1] if reasons else "its task makes more than inputs of a record"
    if must:
        raise TaskError(f"the model cannot be written as an ONNX graph: {reason}")
    return None, b"", f"no model.onnx: {reason}"


def _examples(info: DataInfo, count: int) -> Tensor:
    """Return records that nobody has: of a public seed."""
    drawn, dtype = np.random.default_rng(count), info.features.dtype
    shape = (count, *info.shape)
    if dtype is np.float32:
        return torch.from_numpy(drawn.normal(size=shape).astype(np.float32))
    most = info.features.vocabulary if isinstance(info.features, Tokens) else 256
    return torch.from_numpy(drawn.integers(0, most, size=shape).astype(dtype))


def _as_taken(task: Task, records: Tensor, stored: tuple[tuple[int, ...], torch.dtype]) -> Tensor | None:
    """Return what the task makes of records; ``None`` where a model takes more than that."""
    shape, dtype = stored
    targets = torch.zeros((len(records), *shape), dtype=dtype)
    with telling("collate of the task"):
        batch = collate(task, Records(features=records, targets=targets), None)
    return batch["inputs"] if set(batch) <= {"inputs", "targets"} and "inputs" in batch else None


def _written(graph: nn.Module, records: Tensor, takes: str) -> bytes:
    """Return a graph as ONNX, for any number of records.

    Raises:
        TaskError: torch cannot write it.
    """
    with _quietly():
        try:
            program = torch.onnx.export(
                graph,
                (records,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("count")},),
                input_names=[takes],
                output_names=["outputs"],
                verbose=False,
            )
            assert program is not None
            data: bytes = program.model_proto.SerializeToString()
        except Exception as error:  # of many types, and of the user's own code
            raise TaskError(f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.300}") from error
    return data


def _compare(graph: nn.Module, data: bytes, examples: dict[int, Tensor], takes: str) -> None:
    """Refuse a graph that returns something else than the model.

    Raises:
        TaskError: it does, or fails.
    """
    import onnxruntime  # noqa: PLC0415 - an extra

    found: dict[int, Any] = {}
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        for count, records in examples.items():
            (found[count],) = session.run(None, {takes: records.numpy()})
    except Exception as error:  # of the runtime's own types
        raise TaskError(f"ONNX Runtime cannot run the graph: {str(error).strip().splitlines()[0]:.300}") from error
    for count, records in examples.items():
        with torch.no_grad():
            expected = graph(records).numpy()
        if found[count].shape != expected.shape or not np.allclose(found[count], expected, rtol=_CLOSE, atol=_CLOSE):
            raise TaskError(f"the graph returns something else than the model for {count} records")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what the exporter tells its developers from the screen."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
