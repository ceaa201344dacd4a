"""What a data set has spent, and what may still be spent on it."""

from collections.abc import Callable, Iterable, Sequence

from fedtrain.errors import BudgetError, PrivacySpecError
from fedtrain.ledger.entry import LedgerEntry
from fedtrain.ledger.payload import Noise, Unit
from fedtrain.ledger.site import SitePolicy
from fedtrain.ledger.totals import Totals
from fedtrain.privacy import COARSE, Event, epsilon_of, merge
from fedtrain.privacy.mechanisms import adds_up
from fedtrain.privacy.plan import plural_of

_MIXED: dict[Noise, str] = {
    "secure": "the ledger of this data set holds charges of runs with seeded noise. What was released with seeded "
    "noise protects nobody: who can compute the noise subtracts it. To add secure noise to it would promise what does "
    "not hold",
    "seeded": "the ledger of this data set holds charges of runs with secure noise. What is released with seeded noise "
    "protects nobody: who can compute the noise subtracts it. It would end what the secure noise promises",
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
            "of the run to what is allowed, or let the owner of the client change [policy] noise in its site file"
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
    """Return how many more such events the budget allows, ``limit`` at most.

    Raises:
        PrivacySpecError: the composition cannot be bounded.
    """
    charged = _charged(entries)

    def allowed(count: int, *, coarse: bool) -> bool:
        events = [*charged, event.with_steps(event.steps * count)]
        if coarse:
            return epsilon_of(events, policy.delta, discretization=COARSE) <= policy.epsilon
        return _fits(policy, events)

    # On the coarse grid first, which is fast and never too generous; the exact number is close above.
    rough = _last(lambda count: allowed(count, coarse=True), 0, limit)
    return _last(lambda count: allowed(count, coarse=False), rough, limit)


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


def _last(allowed: Callable[[int], bool], low: int, limit: int) -> int:
    """Return the largest number from ``low`` to ``limit`` that is allowed, where all up to one are, or else ``low``."""
    step = 1
    while low + step <= limit and allowed(low + step):
        low, step = low + step, step * 2
    high = min(low + step, limit + 1)  # not allowed
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low
