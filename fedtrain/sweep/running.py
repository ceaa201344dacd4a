"""Run the runs of a sweep, one after the other, and leave out those that have ended."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedtrain.config import Experiment, to_flat
from fedtrain.config.loading import config_digest
from fedtrain.config.strategies import check_strategy
from fedtrain.errors import ConfigError, PrivacySpecError, RunError, StorageError, UsageError
from fedtrain.files import write_atomic
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.sweep.grid import Grid, Point
from fedtrain.sweep.ledgers import check_room

if TYPE_CHECKING:
    from fedtrain.serverapp.events import Event

_FORMAT = "fedtrain.sweep/1"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run of a sweep that is over.

    Attributes:
        point: which.
        path: its folder.
        how: whether it was run now, was complete already, or failed.
        error: why it failed; empty otherwise.
    """

    point: Point
    path: Path
    how: Literal["run", "found", "failed"]
    error: str = ""


def sweep(
    grid: Grid,
    out: str | Path,
    *,
    screen: Literal["auto", "plain", "none"] = "auto",
    workers: int | None = None,
    on_start: Callable[[Point], None] | None = None,
    on_end: Callable[[Finished], None] | None = None,
    on_event: "Callable[[Event], None] | None" = None,
) -> tuple[Finished, ...]:
    """Run the runs of a sweep that have not ended, each in a folder of its own, in order.

    A run that is complete, of the same configuration, is not run again, and one that was interrupted goes on. So the
    same call after an interrupt loses nothing. A run that fails does not keep the others from being run.

    The noise of every run is calibrated before the first begins, so that a run that cannot keep its budget is told
    before anything is spent; so is one that ledgers which the runs share (``federation.sites``) have no room for.

    Args:
        grid: the runs.
        out: the folder of the sweep, which is made where there is none.
        screen: what is shown of each run.
        workers: worker processes; default: as many as the machine has cores and memory for.
        on_start: called before a run begins or goes on.
        on_end: called after each run, and for each that was found complete.
        on_event: called with the events of each run.

    Returns:
        All runs, in the order of the grid.

    Raises:
        ConfigError: the folder holds another sweep, or a run of another configuration; or a run cannot be used, or is
            beyond the budget of ledgers that the runs share.
        PrivacySpecError: a run cannot give its guarantee.
        SiteError: a site file cannot be used.
        StorageError: the folder cannot be written.
        KeyboardInterrupt: a person stopped it; what is complete is kept.
    """
    from fedtrain.api import simulate  # noqa: PLC0415 - it builds on torch, which takes seconds to import

    folder = Path(out)
    _check(grid.points)
    _claim(grid, folder)
    finished = []
    for point in grid.points:
        path = folder / point.folder
        if _complete(point.experiment, path):
            ended = Finished(point=point, path=path, how="found")
        else:
            if on_start is not None:
                on_start(point)
            ended = Finished(point=point, path=path, how="run")
            try:
                simulate(
                    _shown(point.experiment, screen),
                    out=path,
                    resume=(path / "config.toml").exists(),
                    workers=workers,
                    on_event=on_event,
                )
            except UsageError as error:
                raise ConfigError(f"the run with {point.text} cannot be run: {error}") from error
            except RunError as error:
                ended = Finished(point=point, path=path, how="failed", error=str(error))
        finished.append(ended)
        if on_end is not None:
            on_end(ended)
    return tuple(finished)


def _check(points: Sequence[Point]) -> None:
    """Refuse a sweep of which a run cannot be run, as far as that is known before records are opened."""
    plans = []
    for point in points:
        mechanism = mechanism_of(point.experiment)
        try:
            check_strategy(point.experiment)
            plans.append(mechanism.plan(point.experiment) if mechanism.private else None)
        except ConfigError as error:
            raise ConfigError(f"the run with {point.text} cannot be run: {error}") from error
        except PrivacySpecError as error:
            raise PrivacySpecError(f"the run with {point.text} cannot be run: {error}") from error
    check_room(points, plans)


def _shown(experiment: Experiment, screen: Literal["auto", "plain", "none"]) -> Experiment:
    output = experiment.output.model_copy(update={"screen": screen, "resume": False, "directory": None})
    return experiment.model_copy(update={"output": output})


def _claim(grid: Grid, folder: Path) -> None:
    """Note which sweep a folder holds, or refuse one that holds another.

    Raises:
        ConfigError: it holds another, or something else.
        StorageError: it cannot be read or written.
    """
    file, ours = folder / "sweep.json", {"format": _FORMAT, **grid.as_json()}
    try:
        if file.exists():
            theirs = json.loads(file.read_bytes())
            if theirs != ours:
                raise ConfigError(
                    f"{folder} holds another sweep: {_difference(theirs, ours)}. Its reports say how many runs it has, "
                    "so that it cannot grow; name another folder with --out"
                )
            return
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder} holds something else than a sweep: name another folder with --out")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot use the folder {folder} for a sweep: {error}") from error
    write_atomic(file, json.dumps(ours, indent=1).encode())


def _difference(theirs: object, ours: dict[str, object]) -> str:
    for name in ("over", "base"):
        before = theirs.get(name) if isinstance(theirs, dict) else None
        now = ours[name]
        if not isinstance(before, dict) or not isinstance(now, dict):
            return "its sweep.json is of another version"
        for key in dict.fromkeys((*before, *now)):
            if before.get(key) != now.get(key):
                return f"{key} was {_listed(before.get(key))} and is {_listed(now.get(key))}"
    return "its sweep.json is of another version"


def _listed(value: object) -> str:
    if value is None:
        return "not set"
    return ", ".join(map(str, value)) if isinstance(value, list) else repr(value)


def _complete(experiment: Experiment, path: Path) -> bool:
    """Say whether a folder holds the run of a configuration, complete.

    Raises:
        ConfigError: it holds a run of another configuration.
    """
    from fedtrain.api import load_run  # noqa: PLC0415 - it takes a second to import

    if not (path / "report.json").exists():
        return False
    report = load_run(path).report
    if config_digest(report.config) != config_digest(to_flat(experiment)):
        raise ConfigError(f"{path} holds a run of another configuration: name another folder with --out")
    return report.status == "completed"
