"""What is spent and left of the budget of each data set, and how many more rounds fit."""

from dataclasses import dataclass
from pathlib import Path

from fedtrain.config import Experiment, from_flat, read_toml
from fedtrain.crypto import Identity
from fedtrain.errors import PrivacySpecError, SiteError
from fedtrain.ledger.budget import rounds_left, spent
from fedtrain.ledger.entry import LedgerEntry
from fedtrain.ledger.log import Ledger
from fedtrain.ledger.site import SitePolicy, find_policy
from fedtrain.privacy import Event
from fedtrain.privacy.mechanisms import mechanism_of


@dataclass(frozen=True, kw_only=True)
class BudgetRow:
    """The budget of one data set of one client.

    Attributes:
        client: the name of the client's folder.
        dataset: the keyed digest that identifies the data set.
        runs: runs that were charged to it.
        rounds: charges: rounds, or whole runs where cohorts are secret.
        delta: the delta of the budget and of what is spent.
        spent: the epsilon that is spent.
        budget: the epsilon that the client allows.
        fits: how many more charges fit; ``None`` where nothing says what the next one costs.
        unit: what a charge is: ``round`` or ``run``.
    """

    client: str
    dataset: str
    runs: int
    rounds: int
    delta: float
    spent: float
    budget: float
    fits: int | None
    unit: str

    @property
    def left(self) -> float:
        """The epsilon that is left, not below zero."""
        return max(0.0, self.budget - self.spent)


def budget_rows(sites: Path, experiment: Experiment | None = None) -> tuple[BudgetRow, ...]:
    """Return the budget of each data set of the clients in a folder.

    Args:
        sites: the folder of one client, of all sites, or of a run.
        experiment: whose rounds are to fit; by default the last run's.

    Raises:
        SiteError: there are no ledgers, or a site file cannot be used, or nothing says what the budget is.
        PrivacySpecError: the experiment spends nothing.
        LedgerError: a ledger is damaged.
    """
    coming = None if experiment is None else _coming(experiment)
    return tuple(
        row for folder in _clients(sites.resolve()) for row in _rows(folder, _policy(folder, experiment), coming)
    )


def _clients(sites: Path) -> list[Path]:
    if any((sites / "clients").glob("*/ledgers")):  # a run folder, which has copies in a folder ledgers/ too
        sites /= "clients"
    folders = [sites] if (sites / "ledgers").is_dir() else sorted(path.parent for path in sites.glob("*/ledgers"))
    if not folders:
        raise SiteError(
            f"{sites} holds no ledgers: name the folder of a client, which has a folder ledgers/, or the folder of all "
            "sites (federation.sites), or a run folder, which has it in clients/"
        )
    return folders


def _coming(experiment: Experiment) -> tuple[Event, str]:
    """Return what the experiment reserves at once, and whether that is a round or the whole run."""
    mechanism = mechanism_of(experiment)
    if not mechanism.private:
        raise PrivacySpecError(
            'privacy.mode = "none" spends no budget: name an experiment in mode record or client, or none'
        )
    return mechanism.reservation(mechanism.plan(experiment)), "run" if mechanism.reserves_run else "round"


def _rows(folder: Path, policy: SitePolicy, coming: tuple[Event, str] | None) -> list[BudgetRow]:
    identity = Identity.load(folder / "identity.pem")
    rows = []
    for file in sorted((folder / "ledgers").glob("*.jsonl")):
        with Ledger.open(folder / "ledgers", dataset=file.stem, identity=identity) as ledger:
            entries = ledger.entries
        reserved = [entry for entry in entries if entry.status == "reserved"]
        event, unit = coming or _last(reserved)
        rows.append(
            BudgetRow(
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
