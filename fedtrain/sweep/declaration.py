"""What a sweep says of itself: what bounds a choice among its runs by their results, and what each report has of it.

An epsilon bounds what one run tells. All runs together tell no more than the sum of their budgets, where they protect
the same units by the same guarantee (Dwork and Roth 2014, theorem 3.16). Where that is not sure, nothing is said to
bound them.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from typing import Final

from fedtrain.config import Experiment
from fedtrain.privacy.mechanisms import mechanism_of

_UNDECLARED: Final = Experiment().privacy.tuning
_CHOICE: Final = "a choice among the runs by their results, which depend on private records"
_NOTHING: Final = "nothing bounds what a choice tells"
_UPWARD: Final = Context(prec=6, rounding=ROUND_CEILING)


def caution(experiments: Sequence[Experiment]) -> str:
    """Return what epsilon does not cover in a sweep, and what bounds that, as a clause.

    Args:
        experiments: the runs, one or more.
    """
    return f"{_CHOICE}: {_unbounded(experiments) or _bound(experiments)}"


def _unbounded(experiments: Sequence[Experiment]) -> str:
    """Return why nothing is said to bound all runs together; empty where something does."""
    private = [each for each in experiments if mechanism_of(each).private]
    no_sum = "no sum of their epsilons bounds all together"
    if (plain := len(experiments) - len(private)) > 0:
        whose = f"{plain} of them have" if plain > 1 else "one of them has"
        return f"{whose} no privacy, and {_NOTHING} that looks at its results"
    by_client = mechanism_of(private[0]).counts_clients
    found = {
        "the seed draws the test records, so that training records of one run are test records of another, which have "
        f"no privacy, and {_NOTHING}": _differ(each.seed for each in private)
        and any(each.data.test_path is None for each in private),
        f"the runs guarantee different things, and {no_sum}": _differ(map(_guarantee, private)),
        f"the runs are on other records, or read them otherwise, and {no_sum}": _differ(map(_records, private)),
        f"a client has other records in another run, and {no_sum}": by_client and _differ(map(same_split, private)),
        f"their deltas add up to 1 or more, and {_NOTHING}": _sum(each.privacy.delta for each in private) >= 1,
    }
    return next((reason for reason, holds in found.items() if holds), "")


def _bound(private: Sequence[Experiment]) -> str:
    if any(each.federation.sites is not None for each in private):
        return (
            "the ledgers of federation.sites charge each run, one that is begun again too, and what they have spent in "
            "the end bounds all that was charged to one data set"
        )
    epsilon, delta = _sum(each.privacy.epsilon for each in private), _sum(each.privacy.delta for each in private)
    bound = f"bounded by the sum of their budgets, epsilon {_upward(epsilon)} at delta {_upward(delta)}"
    if private[0].privacy.noise == "seeded":
        return f"with secure noise all together would be {bound}, and seeded noise protects nobody"
    return f"all together are {bound}"


def declared(
    experiment: Experiment, number: int, runs: Sequence[Experiment], over: Mapping[str, tuple[str, ...]]
) -> str:
    """Return what the report of a run says of the sweep, after what the run declares itself.

    Args:
        experiment: the run.
        number: which of the runs it is, from 1.
        runs: all of them.
        over: the fields that are varied, each with its values in words.
    """
    fields = " and ".join(f"{key} ({', '.join(values)})" for key, values in over.items())
    before = experiment.privacy.tuning
    text = "" if before == _UNDECLARED else f"{before}; then "
    same = " on the same records" if len({_records(each) for each in runs}) == 1 else ""
    text += f"one of {len(runs)} runs{same}, number {number} of a sweep over {fields}; runs elsewhere are not counted. "
    if not mechanism_of(experiment).private:
        return f"{text}This run has no epsilon, and that of no other covers {caution(runs)}"
    alone = experiment.federation.sites is None
    whose = "this run alone" if alone else "this run and of those before it in the same ledgers"
    return f"{text}Epsilon is that of {whose}. It does not cover {caution(runs)}"


def same_split(experiment: Experiment) -> tuple[object, ...]:
    """Return what decides which client has which records: runs that have it alike share the ledgers of their sites."""
    drawn = experiment.data.partition.kind != "natural" or experiment.data.test_path is None
    drawn = drawn or experiment.data.max_records is not None
    return (
        _records(experiment),
        experiment.data.partition.model_dump_json(),
        experiment.federation.clients,
        experiment.seed if drawn else None,
    )


def _guarantee(experiment: Experiment) -> tuple[object, ...]:
    mechanism, privacy = mechanism_of(experiment), experiment.privacy
    return mechanism.mode, mechanism.trust, mechanism.unit, mechanism.neighbouring, privacy.noise, privacy.colluders


def _records(experiment: Experiment) -> str:
    return experiment.data.model_dump_json(exclude={"cache", "partition"})


def _differ(values: Iterable[object]) -> bool:
    return len(set(values)) > 1


def _sum(numbers: Iterable[float]) -> Decimal:
    """Return the sum of numbers as they are written."""
    return sum((Decimal(repr(number)) for number in numbers), Decimal())


def _upward(number: Decimal) -> str:
    """Return a number with six digits at most, never below it."""
    return f"{float(_UPWARD.plus(number)):g}"
