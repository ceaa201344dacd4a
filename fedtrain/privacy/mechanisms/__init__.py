"""The registry of mechanisms, and how to find the one of an experiment, a plan or a report.

Everything else asks the mechanism that it finds here, and never what mode or unit there is.
"""

from fedtrain.config import Experiment
from fedtrain.config.privacy import declare
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.mechanisms.banded import ClientBanded
from fedtrain.privacy.mechanisms.base import (
    Adversary,
    Arrays,
    Mechanism,
    Requirements,
    Sampling,
    Seen,
    Sent,
    Training,
)
from fedtrain.privacy.mechanisms.client import ClientCapped, ClientPoisson
from fedtrain.privacy.mechanisms.distributed import ClientDistributed, RecordDistributed
from fedtrain.privacy.mechanisms.plain import Plain
from fedtrain.privacy.mechanisms.record import RecordLocal
from fedtrain.privacy.plan import PrivacyPlan

__all__ = [
    "Adversary",
    "Arrays",
    "Mechanism",
    "Requirements",
    "Sampling",
    "Seen",
    "Sent",
    "Training",
    "adds_up",
    "guarantees_nothing",
    "mechanism_of",
    "mechanism_of_plan",
    "private",
    "protects",
    "read_plan",
    "register",
    "registered",
]

_REGISTRY: dict[str, Mechanism] = {}


def register(mechanism: Mechanism) -> None:
    """Add a mechanism to the registry, and its mode to those that an experiment may have.

    Raises:
        ValueError: another one has its kind, or its plans could be taken for those of another one.
    """
    if mechanism.kind in _REGISTRY:
        raise ValueError(f"a mechanism {mechanism.kind!r} is registered already")
    if mechanism.private:
        plans = _plans(mechanism)
        for other in _REGISTRY.values():
            if _plans(other) == plans:
                raise ValueError(
                    f"plans of {mechanism.kind!r} cannot be told from those of {other.kind!r}: give it a plan_kind"
                )
    declare(mechanism.mode)
    _REGISTRY[mechanism.kind] = mechanism


def registered() -> tuple[Mechanism, ...]:
    """Return every mechanism that is registered."""
    return tuple(_REGISTRY.values())


def mechanism_of(experiment: Experiment) -> Mechanism:
    """Return the mechanism that an experiment asks for.

    Raises:
        PrivacySpecError: none is registered for it, or several are.
    """
    found = [mechanism for mechanism in _REGISTRY.values() if mechanism.chosen(experiment.privacy)]
    if len(found) != 1:
        kinds = ", ".join(mechanism.kind for mechanism in found) or "none"
        raise PrivacySpecError(
            f"an experiment of privacy.mode = {experiment.privacy.mode!r} needs one mechanism, and has: {kinds}"
        )
    return found[0]


def mechanism_of_plan(plan: PrivacyPlan) -> Mechanism:
    """Return the mechanism of a plan.

    Raises:
        PrivacySpecError: none is registered for it.
    """
    key = (plan.kind, plan.spec.unit, plan.spec.neighbouring)
    for mechanism in _REGISTRY.values():
        if _plans(mechanism) == key:
            return mechanism
    raise PrivacySpecError(f"no mechanism is known for a plan of kind {plan.kind!r} to {plan.spec.neighbouring}")


def read_plan(data: object) -> PrivacyPlan:
    """Return the plan of a JSON object, of whatever mechanism.

    Raises:
        PrivacySpecError: a mechanism that is not registered, other fields or types, or constants that no plan can have.
    """
    plan = PrivacyPlan.from_data(data, kinds={mechanism.plan_kind: None for mechanism in _REGISTRY.values()})
    mechanism = mechanism_of_plan(plan)
    if mechanism.correlates != (plan.spec.correlation is not None):
        has = "has no" if mechanism.correlates else "has a"
        raise PrivacySpecError(f"not a plan of {mechanism.kind!r}: its spec {has} correlation")
    return plan


def private(mode: str) -> bool:
    """Say whether a mode guarantees anything."""
    return any(mechanism.private for mechanism in _REGISTRY.values() if mechanism.mode == mode)


def guarantees_nothing(mode: object) -> bool:
    """Say whether a mode is known, and guarantees nothing. One that is not known may be private."""
    return any(mechanism.mode == mode and not mechanism.private for mechanism in _REGISTRY.values())


def protects(mode: str, unit: str | None, neighbouring: str | None) -> bool:
    """Say whether a mechanism of a mode protects a unit, against being told from such a neighbour."""
    claimed = (mode, unit, neighbouring)
    return any((each.mode, each.unit, each.neighbouring) == claimed for each in _REGISTRY.values())


def adds_up(unit: str, other: str) -> bool:
    """Say whether charges that protect one unit add up with those that protect another: only where it is the same."""
    return unit == other


def _plans(mechanism: Mechanism) -> tuple[str, str | None, str | None]:
    return (mechanism.plan_kind, mechanism.unit, mechanism.neighbouring)


for _mechanism in (
    Plain(),
    RecordLocal(),
    RecordDistributed(),
    ClientPoisson(),
    ClientCapped(),
    ClientBanded(),
    ClientDistributed(),
):
    register(_mechanism)
