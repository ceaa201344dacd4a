"""``fedtrain budget``: what a client's data sets have spent, what is left, and how many more rounds fit."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedtrain.cli.failing import reporting_errors
from fedtrain.config import Experiment, from_flat, read_flat, read_toml
from fedtrain.crypto import Identity
from fedtrain.errors import PrivacySpecError, SiteError
from fedtrain.ledger import Ledger, LedgerEntry, SitePolicy, find_policy, rounds_left, spent
from fedtrain.privacy import Event, calibrate
from fedtrain.privacy.spec import privacy_spec
from fedtrain.report.numbers import upper

_SHOWN = 12  # letters of a data set's digest


@dataclass(frozen=True, kw_only=True)
class _Row:
    client: str
    dataset: str
    runs: int
    rounds: int
    delta: float
    spent: float
    budget: float
    fits: int | None
    unit: str


def budget(
    sites: Annotated[Path, typer.Argument(help="Folder of one client, or of all sites of a simulation.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Experiment whose rounds are to fit; by default the last run's."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value, over the file's. Repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Show what is spent and left of the budget of each data set, and how many more rounds fit."""
    with reporting_errors():
        flat = read_flat(config, settings)
        experiment = from_flat(flat) if flat else None
        coming = None if experiment is None else _coming(experiment)
        rows = [
            row for folder in _clients(sites.resolve()) for row in _rows(folder, _policy(folder, experiment), coming)
        ]
        if as_json:
            sys.stdout.write(json.dumps({"datasets": [asdict(row) for row in rows]}) + "\n")
        else:
            Console(width=110).print(_table(rows))


def _clients(sites: Path) -> list[Path]:
    folders = [sites] if (sites / "ledgers").is_dir() else sorted(path.parent for path in sites.glob("*/ledgers"))
    if not folders:
        raise SiteError(
            f"{sites} holds no ledgers: name the folder of a client, which has a folder ledgers/, or the folder of all "
            "sites (federation.sites, or clients/ in a run folder)"
        )
    return folders


def _coming(experiment: Experiment) -> tuple[Event, str]:
    """Return what the experiment reserves at once, and whether that is a round or the whole run."""
    if experiment.privacy.mode == "none":
        raise PrivacySpecError(
            'privacy.mode = "none" spends no budget: name an experiment in mode record or client, or none'
        )
    plan = calibrate(privacy_spec(experiment), noise_multiplier=experiment.privacy.noise_multiplier)
    if experiment.privacy.secret_cohorts:
        return plan.event(plan.spec.steps), "run"
    return plan.round_event, "round"


def _rows(folder: Path, policy: SitePolicy, coming: tuple[Event, str] | None) -> list[_Row]:
    identity = Identity.load(folder / "identity.pem")
    rows = []
    for file in sorted((folder / "ledgers").glob("*.jsonl")):
        with Ledger.open(folder / "ledgers", dataset=file.stem, identity=identity) as ledger:
            entries = ledger.entries
        reserved = [entry for entry in entries if entry.status == "reserved"]
        event, unit = coming or _last(reserved)
        rows.append(
            _Row(
                client=folder.name,
                dataset=file.stem,
                runs=len({entry.run for entry in reserved}),
                rounds=len(reserved),
                delta=policy.delta,
                spent=spent(entries, policy.delta),
                budget=policy.epsilon,
                fits=None if event is None else rounds_left(policy, entries, event),
                unit=unit,
            )
        )
    return rows


def _last(reserved: list[LedgerEntry]) -> tuple[Event | None, str]:
    """Return what was reserved last. Round 0 is a whole run."""
    if not reserved:
        return None, "round"
    return reserved[-1].event, "round" if reserved[-1].round else "run"


def _policy(folder: Path, experiment: Experiment | None) -> SitePolicy:
    """Return the budget that the client enforces: of its site file, of all sites', or else of the experiment."""
    if (policy := find_policy(folder)) is not None:
        return policy
    run = folder.parent.parent / "config.toml"
    if experiment is None and run.exists():
        experiment = from_flat(read_toml(run))
    if experiment is None:
        raise SiteError(
            f"{folder} has no site.toml, so that its budget is that of the experiment: name one with --config, or "
            "write site.toml with epsilon and delta under [budget]"
        )
    return SitePolicy(epsilon=experiment.privacy.epsilon, delta=experiment.privacy.delta)


def _table(rows: list[_Row]) -> Table:
    headings = ("client", "data set", "runs", "charges", "spent", "left", "budget", "delta", "what fits")
    table = Table(*headings, box=None)
    for row in rows:
        left = max(0.0, row.budget - row.spent)
        table.add_row(
            row.client,
            row.dataset[:_SHOWN],
            str(row.runs),
            str(row.rounds),
            upper(row.spent),
            f"{int(left * 100) / 100:.2f}",
            f"{row.budget:g}",
            f"{row.delta:g}",
            "" if row.fits is None else f"{row.fits} {row.unit}{'' if row.fits == 1 else 's'}",
        )
    return table
