"""Whether what the report says of privacy is what the signed entries and records give."""

from collections import Counter
from math import isclose

from fedtrain.audit.evidence import Evidence
from fedtrain.audit.spending import Spent
from fedtrain.audit.verdict import Finding, decide
from fedtrain.privacy.events import sampled_gaussian
from fedtrain.report.mechanism import PrivacyEvent
from fedtrain.report.privacy import ClientPrivacy


def mechanism(evidence: Evidence) -> Finding:
    """The mechanism, the unit and the sampling of the report are those of the plan that the run was opened with."""
    told, privacy, plan = evidence.mechanism, evidence.report.privacy, evidence.plan
    spec, adaptive = plan.spec, told.adaptive_clipping
    clipping = spec.adaptive
    pairs = {
        "plan digest": (told.plan_digest, plan.digest),
        "unit": (privacy.unit, spec.unit),
        "neighbouring": (privacy.neighbouring, spec.neighbouring),
        "sampling rate": (told.sampling_rate, spec.sampling_rate),
        "noise multiplier": (told.noise_multiplier, plan.noise_multiplier),
        "clip norm": (told.clip_norm, spec.clip_norm),
        "divisor": (told.divisor, spec.divisor),
        "population": (told.population, spec.population),
        "steps per round": (told.steps_per_round, spec.steps_per_round),
        "rounds": (told.rounds, spec.rounds),
        "clipping quantile": (adaptive and adaptive.quantile, clipping and clipping.quantile),
        "clipping rate": (adaptive and adaptive.learning_rate, clipping and clipping.learning_rate),
        "clipping noise": (adaptive and adaptive.count_noise, clipping and clipping.count_noise),
    }
    problems = [
        f"{name} is {said} in the report, and {planned} in the plan"
        for name, (said, planned) in pairs.items()
        if said != planned
    ]
    if adaptive is not None and not isclose(adaptive.value_noise_multiplier, plan.value_noise_multiplier):
        said, planned = adaptive.value_noise_multiplier, plan.value_noise_multiplier
        problems.append(f"noise multiplier of the values is {said} in the report, and {planned} by the plan")
    sampling = privacy.sampling
    if sampling is not None and sampling.amplification and not (evidence.secret or spec.unit == "record"):
        problems.append("amplification by sampling is claimed, and cohorts are not secret")
    return decide(problems, f"as in the plan {plan.digest[:16]}, which each client's entries name")


def clients(evidence: Evidence) -> Finding:
    """What the report says of each client is what its ledger gives; every client of the roster is there."""
    told = {client.client: client for client in evidence.report.privacy.clients}
    problems = [
        f"client {client} is missing from privacy.clients" for client in evidence.roster.clients if client not in told
    ]
    problems += [
        f"client {client} is in privacy.clients and not in the roster"
        for client in told
        if client not in evidence.roster.clients
    ]
    for client, spent in evidence.spent.items():
        if client in told:
            problems += _differences(told[client], evidence, spent)
    return decide(problems, f"data set, entries, steps and rounds of {len(told)} clients are those of their ledgers")


def _differences(told: ClientPrivacy, evidence: Evidence, spent: Spent) -> list[str]:
    entries, run = evidence.ledgers[told.client].entries, evidence.opened.run
    pairs = {
        "dataset": (told.dataset, entries[0].dataset if entries else None),
        "entries": (told.entries, len(entries)),
        "steps": (told.steps, sum(charge.event.steps for charge in spent.charges)),
        "rounds": (told.rounds, tuple(sorted({charge.round for charge in spent.charges if charge.run == run}))),
        "unanswered": (tuple(sorted(told.unanswered)), tuple(sorted(set(spent.unanswered)))),
    }
    return [
        f"client {told.client}: {name} is {said} in the report, and {found} by its ledger and the server's record"
        for name, (said, found) in pairs.items()
        if said != found
    ]


def events(evidence: Evidence) -> Finding:
    """The charges in the report are exactly those of the ledgers, and the questions that were left unanswered."""
    told = Counter(map(_key, evidence.report.privacy.events))
    found: Counter[tuple[int, str, int, float, float, int]] = Counter()
    for client, spent in evidence.spent.items():
        for charge in spent.charges:
            event = sampled_gaussian(charge.event)
            found[client, charge.run, charge.round, event.sampling_rate, event.noise_multiplier, event.steps] += 1
    problems = [f"round {key[2]}, client {key[0]}: a charge is missing from privacy.events" for key in found - told]
    problems += [
        f"round {key[2]}, client {key[0]}: privacy.events has a charge that nothing gives" for key in told - found
    ]
    return decide(problems, f"{found.total()} charges are those of the ledgers and of unanswered questions")


def _key(event: PrivacyEvent) -> tuple[int, str, int, float, float, int]:
    return (event.client, event.run, event.round, event.sampling_rate, event.noise_multiplier, event.steps)
