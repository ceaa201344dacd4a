"""From a finished run and its central test records to an explanation of its model."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedtrain.api import Run
from fedtrain.config import Experiment, from_flat
from fedtrain.data import DataStore, Split, open_store, open_test
from fedtrain.data.schema import read_schema
from fedtrain.data.sources import source_of
from fedtrain.data.sources.base import path_of
from fedtrain.data.types import DataInfo
from fedtrain.encoders import Encoder, open_encoder
from fedtrain.encoders.minilm import MiniLM
from fedtrain.errors import ConfigError, DataError, TaskError, UsageError
from fedtrain.explanation.attribution import require_captum, why_no_gradient
from fedtrain.explanation.found import Example, Explanation
from fedtrain.explanation.importance import PERMUTATIONS, permutation_importance
from fedtrain.explanation.views import Explained, Model, of_inputs, of_minilm, of_tokens, through_encoder
from fedtrain.progress import working
from fedtrain.report.wording import title
from fedtrain.seeding import derive_seed
from fedtrain.serverapp.evaluation import outputs_of
from fedtrain.tasks import Metric
from fedtrain.tasks.column_statistics import ColumnStatistics
from fedtrain.tasks.language import Language
from fedtrain.tasks.least_squares import LeastSquares
from fedtrain.tasks.supervised import Supervised
from fedtrain.tasks.user_code import telling

MOST: Final = 50
"""Examples that are explained at most: a page of them stays one that a person reads."""

_USED = 2000  # test records of which the columns of a table are permuted

_PUBLIC_SOURCE = "digits"  # comes with the package


def explain(
    run: Run, *, examples: int = 8, which: Literal["final", "best"] = "final", public: bool = False
) -> Explanation:
    """Explain what a trained model's outputs depend on, on central test records alone.

    The test records are opened where the run had them, from the current folder. Of images, sounds and texts some are
    explained one by one: as many of each class as can be, in their order. Of a table all are used, or 2,000 of more,
    and each column is permuted. What is found is computed of the released model and of test records, and costs no
    privacy budget.

    A task or an encoder of one's own, which the report names, is imported, and its code runs.

    Args:
        run: the run. Where its task was an object of a program, it is of `load_run` with that task.
        examples: how many test records are explained, 1 to 50.
        which: the weights after the last round, or those of the best central evaluation.
        public: whether the test records are public, as the caller knows. Those of the digits are.

    Raises:
        UsageError: the run has no model that predicts, or there is no such number of examples.
        ConfigError: the package captum is needed, and not installed.
        DataError: the test records cannot be opened, or are not those of the run.
        TaskError: the code of a task of one's own fails, or gives nothing that could be explained.
        StorageError: the run has saved no such weights.
    """
    if not 1 <= examples <= MOST:
        raise UsageError(f"examples = {examples}: 1 to {MOST} test records are explained")
    task, experiment = run.made_task(), from_flat(run.report.config)
    if isinstance(task, ColumnStatistics):
        raise UsageError(f'{run.path} is a run of task.name = "statistics", and has no model: see fedtrain stats')
    if isinstance(task, Language):
        raise UsageError(f"{run.path} is a run on texts whose next tokens are predicted, and no output is of a text")
    summary = run.report.model.encoder
    if run.info.kind != "table":
        require_captum()
    module = run.model(which)
    test = _test_of(run, experiment).test
    encoder = None
    if summary is not None:
        encoder = open_encoder(experiment.task.model_copy(update={"encoder_digest": summary.digest}), run.info)
    model = Model(task=task, module=module, encoder=encoder, info=run.info)
    saved = run.report.model.final if which == "final" else run.report.model.best
    assert saved is not None  # its weights were read
    about = {
        "name": run.report.name,
        "run": run.report.run,
        "weights": saved.sha256,
        "which": which,
        "public": public or experiment.data.source == _PUBLIC_SOURCE,
        "records": len(test),
    }
    if run.info.kind == "table":
        return _of_table(model, test, experiment, about)
    return _of_records(model, test, examples, about)


def _test_of(run: Run, experiment: Experiment) -> DataStore:
    """Open the test records of a run: of a simulation, or the server's of a deployment.

    Raises:
        DataError: they cannot be opened, or are not those of the run.
    """
    data = experiment.data
    alone = data.path is None and data.test_path is not None and source_of(data.source).deployed
    store = open_test(data) if alone else open_store(data, seed=experiment.seed)
    found, expected = len(store.test), run.report.data.test_records
    if store.info != run.info or found != expected:
        differs = f"there are {found:,}, and the run had {expected:,}" if found != expected else "they look otherwise"
        raise DataError(
            f"the test records that the run's configuration names are not those that it was measured on: {differs}; "
            "put those back, and start from the folder in which the run began"
        )
    return store


def _of_records(model: Model, test: Split, examples: int, about: dict[str, Any]) -> Explanation:
    rows = _chosen(test, model.info, examples)
    view = _view(model, test, rows[0])
    found, without = [], 0
    with working("explaining test records", len(rows)) as done:
        for place, row in enumerate(rows):
            record, target = _record(test, row)
            seen = view.explained(model, record, target)
            _require_finite(seen, row)
            without += all(each.method == "occlusion" for each in seen.attributions)
            found.append(_example(model, row, record, test.targets[row], seen))
            done(place + 1)
    notes = [view.note] if view.note else []
    if without:
        notes.append(
            f"{without} of {len(rows)} records have no integrated gradients: these are not finite, or the model has no "
            "single embedding of its tokens, or a record has none"
        )
    return Explanation(**about, over=view.over, baseline=view.baseline, notes=tuple(notes), examples=tuple(found))


def _require_finite(seen: Explained, row: int) -> None:
    numbers = [seen.outputs.numpy(), seen.baseline.numpy(), *(each.values for each in seen.attributions)]
    if not all(bool(np.isfinite(each).all()) for each in numbers):
        raise TaskError(
            f"what the model returns for test record {row}, or on the way to it from the baseline, is not finite, and "
            "nothing can be said to add to it"
        )


@dataclass(frozen=True, kw_only=True)
class _View:
    """How records are explained.

    Attributes:
        explained: explains one.
        over: what values are given to, in words.
        baseline: what a record is compared with, in words.
        note: what a reader should know; empty if nothing.
    """

    explained: Callable[[Model, torch.Tensor, torch.Tensor], Explained]
    over: str
    baseline: str
    note: str = ""


_PADDING = "padding in the place of each token"


def _view(model: Model, test: Split, row: int) -> _View:
    """Return how the records of a model are explained; a test record says whether its encoder has gradients."""
    kind, encoder = model.info.kind, model.encoder
    if encoder is not None:
        return _encoded_view(model, encoder, *_record(test, row))
    if kind in {"tokens", "text"}:
        return _View(explained=of_tokens, over="the tokens of a record", baseline=_PADDING)
    if kind == "audio":
        over = "the log-mel spectrogram of a sound: bands of pitches, over time"
        return _View(explained=of_inputs, over=over, baseline="the spectrogram of silence")
    return _View(explained=of_inputs, over="the pixels of an image", baseline="a black image")


def _encoded_view(model: Model, encoder: Encoder, record: torch.Tensor, target: torch.Tensor) -> _View:
    if encoder.info.kind == "tokens":
        return _View(explained=of_tokens, over=f"the tokens that {encoder.name} makes of a text", baseline=_PADDING)
    if isinstance(encoder.module, MiniLM):
        over = "the tokens of a text, through the frozen encoder minilm"
        return _View(explained=of_minilm, over=over, baseline="the first token [CLS], and padding after it")
    why = "the bytes of a text have no gradient"
    if model.info.kind == "audio":
        why = "single samples of a sound say little to a person"
    elif model.info.kind == "image":
        why = _why_not_through(model, encoder, record, target)
        if not why:
            over = f"the pixels of an image, through the frozen encoder {encoder.name}"
            return _View(explained=through_encoder, over=over, baseline="a black image")
    return _View(
        explained=of_inputs,
        over=f"the features that the frozen encoder {encoder.name} computes of a record",
        baseline="features that are all zero",
        note=f"nothing is followed back through the encoder: {why}",
    )


def _why_not_through(model: Model, encoder: Encoder, record: torch.Tensor, target: torch.Tensor) -> str:
    """Say why an image cannot be followed back through its encoder to its pixels; empty if it can."""
    pixels = record[None].to(torch.float32)
    if why := why_no_gradient(model.encoded_scores(target), pixels, 0):
        return why
    with torch.no_grad():
        stored, floating = encoder.module(record[None]), encoder.module(pixels)
    same = torch.allclose(stored, floating, atol=1e-4, rtol=1e-3)
    return "" if same else "it computes something else of pixels that are floating-point numbers"


def _record(test: Split, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a stored record, shape (*shape), and its target, shape (1, ...)."""
    return torch.from_numpy(np.array(test.features[row])), torch.from_numpy(np.array(test.targets[row : row + 1]))


def _chosen(test: Split, info: DataInfo, count: int) -> list[int]:
    """Return rows of test records: of each class in turn the first that is left; else from all over the records."""
    count = min(count, len(test))
    if info.target.kind != "class":
        return [int(row) for row in np.linspace(0, len(test) - 1, count).round()]
    # The how-manieth record of its class each one is.
    turns = np.zeros(len(test), np.int64)
    for number in np.unique(test.targets):
        of_class = np.flatnonzero(test.targets == number)
        turns[of_class] = np.arange(len(of_class))
    order = np.lexsort((np.asarray(test.targets), turns))
    return [int(row) for row in order[:count]]


def _example(model: Model, row: int, record: torch.Tensor, target: Any, seen: Explained) -> Example:
    kind, names = model.info.target.kind, model.info.classes
    chosen = int(seen.outputs.argmax())
    own = not isinstance(model.task, Supervised | LeastSquares)
    if own and len(names) != len(seen.outputs):
        names = ()
    if kind == "class" and names:
        is_, says = model.info.classes[int(target)], names[chosen]
    elif kind == "labels" and names:
        is_ = _joined(name for name, has in zip(names, target, strict=True) if has)
        says = _joined(name for name, value in zip(names, seen.outputs.tolist(), strict=True) if value > 0)
    else:
        is_ = model.info.classes[int(target)] if kind == "class" else _joined(f"{each:g}" for each in np.ravel(target))
        says = f"{float(seen.outputs[chosen]):.4g}"
    output = names[chosen] if names else "the number" if len(seen.outputs) == 1 else f"output {chosen}"
    picture: NDArray[Any] | None = None
    if model.info.kind == "image":
        picture = record.numpy()
    elif model.info.kind == "audio" and model.encoder is None and seen.inputs.ndim > 1:
        picture = seen.inputs.reshape(-1, seen.inputs.shape[-1]).numpy()
    attributions = seen.attributions
    return Example(
        record=row,
        target=is_,
        predicted=says,
        output=output,
        value=float(seen.outputs[chosen]),
        baseline=float(seen.baseline[chosen]),
        picture=picture,
        pieces=seen.pieces,
        attributions=attributions,
    )


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _of_table(model: Model, test: Split, experiment: Experiment, about: dict[str, Any]) -> Explanation:
    rows = np.unique(np.linspace(0, len(test) - 1, min(_USED, len(test))).round().astype(np.int64))
    features: NDArray[Any] = np.array(test.features[rows])
    targets: Any = np.array(test.targets[rows])
    with telling("metrics of the task"):
        metric: Metric | None = next(iter(model.task.metrics().described), None)
    if metric is None:
        raise TaskError("the task describes no metric, and the importance of a column is by how much one is worse")
    name, direction = metric.name, metric.direction

    def measure(some: NDArray[Any]) -> float:
        encoded = some if model.encoder is None else np.stack([model.encoder.encode(record) for record in some])
        with telling("metrics of the task"):
            metrics = model.task.metrics()
        for outputs, batch in outputs_of(model.module, model.task, Split(features=encoded, targets=targets)):
            with telling("update of the task's metrics"), torch.no_grad():
                metrics.update(outputs, batch)
        with telling("compute of the task's metrics"):
            value = metrics.compute().get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise TaskError(f"the metric {name} of the test records has no value, and no column an importance")
        return float(value)

    seed = derive_seed(experiment.seed, "explanation", 0)
    columns, notes = _columns(model.info, experiment)
    reached, found = permutation_importance(measure, features, columns, direction=direction, seed=seed)
    return Explanation(
        **about,
        over="the columns of a table, as they are stored",
        baseline="",
        notes=notes,
        metric=title(name),
        reached=reached,
        used=len(rows),
        permutations=PERMUTATIONS,
        importance=found,
    )


def _columns(info: DataInfo, experiment: Experiment) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Return the features of each column of a table, and what is not known of them.

    Raises:
        ConfigError: the schema file is another one than the records were decoded by.
    """
    alone: dict[str, tuple[int, ...]] = {info.feature(at): (at,) for at in range(info.shape[0])}
    if experiment.data.schema_file is None:
        known = len(info.columns) in {0, info.shape[0]}
        return alone, () if known else ("which features are of one column of categories is not known without a schema",)
    schema = read_schema(path_of(experiment.data.schema_file))
    if schema.features != info.columns:
        raise ConfigError(f"the schema file {experiment.data.schema_file} does not name the features of the run")
    columns: dict[str, tuple[int, ...]] = {}
    at = 0
    for name, column in schema.columns.items():
        count = len(column.feature_names(name))
        if count:
            columns[name] = tuple(range(at, at + count))
            at += count
    return columns, ()
