"""What a data set has spent, and what may still be spent on it: the check of a step, and the table of all budgets."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtrain.config import Experiment, from_flat, read_toml
from fedtrain.crypto import Identity
from fedtrain.errors import BudgetError, PrivacySpecError, SiteError
from fedtrain.ledger.charges import Totals
from fedtrain.ledger.entry import LedgerEntry, Noise, Unit
from fedtrain.ledger.log import Ledger
from fedtrain.ledger.site import SitePolicy, find_policy
from fedtrain.privacy import COARSE, Event, epsilon_of, merge
from fedtrain.privacy.mechanisms import adds_up, mechanism_of
from fedtrain.privacy.spec import plural_of

_MIXED: dict[Noise, str] = {
    "secure": "the ledger of this data set holds charges of runs with seeded noise. What was released with seeded "
    "noise protects nobody: anyone who can compute the noise can subtract it. Secure noise that is added later "
    "does not change that",
    "seeded": "the ledger of this data set holds charges of runs with secure noise. What is released with seeded noise "
    "protects nobody: anyone who can compute the noise can subtract it. It would end what the secure noise guarantees",
}
_ELSEWHERE = (
    "Use another folder of sites for such runs, if its owner accepts that their losses are then counted apart, or "
    "another data set"
)


def spent(entries: Iterable[LedgerEntry], delta: float) -> float:
    """Return an upper bound on the epsilon that a ledger has spent at ``delta``.

    Every reservation is charged, of whatever run, settled or not.

    Raises:
        PrivacySpecError: the composition cannot be bounded.
    """
    return epsilon_of(_charged(entries), delta)


def check(
    policy: SitePolicy,
    totals: Totals,
    event: Event,
    *,
    run: str,
    whole: Event,
    mode: str,
    unit: Unit,
    noise: Noise,
) -> None:
    """Refuse a step that the site's policy or budget does not allow. To be called before it is reserved.

    Args:
        policy: what the client allows.
        totals: the ledger of the data set.
        event: what the step would do.
        run: id of the run.
        whole: what the run would do by its end. It decides nothing: where the budget has room for all of it, it has
            room for each of its rounds, and no round needs an accounting of its own.
        mode: the privacy mode of the run.
        unit: what the step protects.
        noise: where its randomness would come from.

    Raises:
        BudgetError: the mode, the source or the amount of the noise, or the epsilon that the step would bring the data
            set to is not allowed; or the ledger holds charges of another unit or source of noise, which do not add up.
        PrivacySpecError: the composition cannot be bounded.
    """
    if mode not in policy.modes:
        allowed = ", ".join(policy.modes) or "none at all"
        raise BudgetError(
            f"privacy mode {mode!r} is not allowed by this client (allowed: {allowed}); nothing was trained"
        )
    if noise not in policy.noise:
        allowed = ", ".join(policy.noise) or "none at all"
        raise BudgetError(
            f"{noise} noise is not allowed by this client (allowed: {allowed}); nothing was trained. Set privacy.noise "
            "of the run to an allowed source, or let the owner of the client change [policy] noise in its site file"
        )
    if event.noise_multiplier < policy.minimum_noise:
        raise BudgetError(
            f"noise multiplier {event.noise_multiplier:.4g} is below the minimum of this client, "
            f"{policy.minimum_noise:.4g}; nothing was trained"
        )
    _check_sums(totals, unit, noise)
    if _is_part((*totals.events_of(run), event), whole) and _has_room(policy, totals.events_besides(run), whole):
        return
    charged = totals.events
    if not _fits(policy, [*charged, event]):
        before, after = (epsilon_of(events, policy.delta) for events in (charged, [*charged, event]))
        raise BudgetError(
            f"it would bring epsilon from {before:.4g} to {after:.4g}, beyond this client's budget of "
            f"{policy.epsilon:g} at delta {policy.delta:g}; nothing was trained"
        )


def rounds_left(policy: SitePolicy, entries: Sequence[LedgerEntry], event: Event, *, limit: int = 100_000) -> int:
    """Return how many more such events the budget allows, ``limit`` at most. What cannot be bounded does not fit."""
    charged = _charged(entries)

    def allowed(count: int, *, coarse: bool) -> bool:
        events = [*charged, event.with_steps(event.steps * count)]
        try:
            if coarse:
                return epsilon_of(events, policy.delta, discretization=COARSE) <= policy.epsilon
            return _fits(policy, events)
        except PrivacySpecError:
            return False

    # On the coarse grid first, which is fast and never too generous; the exact number is close above.
    rough = _largest(lambda count: allowed(count, coarse=True), 0, limit)
    return _largest(lambda count: allowed(count, coarse=False), rough, limit)


def _check_sums(totals: Totals, unit: Unit, noise: Noise) -> None:
    """Check that a charge can be added to those of a ledger."""
    for charged_unit, charged_noise in totals.kinds:
        if not adds_up(charged_unit, unit):
            raise BudgetError(
                f"the ledger of this data set holds charges that protect {plural_of(charged_unit)}; charges that "
                f"protect {plural_of(unit)} do not add up with them; nothing was trained. {_ELSEWHERE}"
            )
        if charged_noise != noise:
            raise BudgetError(f"{_MIXED[noise]}; nothing was trained. {_ELSEWHERE}")


def _is_part(events: Sequence[Event], whole: Event) -> bool:
    """Say whether some steps are of the mechanism of others, and no more of them."""
    (first, *others) = merge(events)
    return not others and first.steps <= whole.steps and first.with_steps(whole.steps) == whole


def _has_room(policy: SitePolicy, charged: Sequence[Event], whole: Event) -> bool:
    """Say whether the budget has room for a whole run, as far as that is quickly known.

    Steps that are left out never add to epsilon: what holds for all rounds of a run holds for the first of them.
    """
    try:
        if epsilon_of([*charged, whole], policy.delta, discretization=COARSE) <= policy.epsilon:
            return True
        # On an unspent data set that is the accounting of the plan itself, which the client has just checked.
        return not charged and epsilon_of([whole], policy.delta) <= policy.epsilon
    except PrivacySpecError:  # of the whole run; its first rounds may still be within bounds
        return False


def _charged(entries: Iterable[LedgerEntry]) -> list[Event]:
    return [entry.event for entry in entries if entry.status == "reserved"]


def _fits(policy: SitePolicy, events: Sequence[Event]) -> bool:
    # Both are upper bounds. The coarse one is about ten times faster, and decides all but the last rounds of a budget.
    return (
        epsilon_of(events, policy.delta, discretization=COARSE) <= policy.epsilon
        or epsilon_of(events, policy.delta) <= policy.epsilon
    )


def _largest(allowed: Callable[[int], bool], low: int, limit: int) -> int:
    """Return the largest number from ``low`` to ``limit`` that is allowed, where all up to one are, or else ``low``."""
    step = 1
    while low + step <= limit and allowed(low + step):
        low, step = low + step, step * 2
    high = min(low + step, limit + 1)  # not allowed
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


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
        row for folder in _clients(sites.resolve()) for row in _rows(folder, _policy_of(folder, experiment), coming)
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
        event, unit = coming or _last_reserved(reserved)
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


def _last_reserved(reserved: list[LedgerEntry]) -> tuple[Event | None, str]:
    """Return what was reserved last. Round 0 is a whole run."""
    if not reserved:
        return None, "round"
    return reserved[-1].event, "round" if reserved[-1].round else "run"


def _policy_of(folder: Path, experiment: Experiment | None) -> SitePolicy:
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
