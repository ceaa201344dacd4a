"""Whether the claim is the one that an honest server derives from the signed records: every field of it.

The claim is derived again by the function that the server derives it with (`fedtrain.report.claim`), from what this
audit verified. Here is what tells the two apart. That the arithmetic is right is for the second opinion, which is
another library's; that what was signed is complete, and agrees with the configuration, is for the other checks.
"""

from collections import Counter
from collections.abc import Iterator
from math import isclose

from pydantic import BaseModel

from fedtrain.audit.checks.accounting import near
from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Finding, decide
from fedtrain.privacy.mechanisms import mechanism_of_plan
from fedtrain.report.claim import site_names
from fedtrain.report.privacy import IntegerNoise, PrivacyEvent

_WORDS = (
    *("adversaries", "trusted", "sampling", "composition", "random_source", "statement", "accesses_not_covered"),
    "not_covered",
)
_OWN_CHECKS = frozenset({*_WORDS, "events", "accountants", "curve"})


def claim(evidence: Evidence) -> Finding:
    """Each field of the claim is what an honest server derives from the signed records, ledgers and statements.

    Epsilons may differ by what versions of a library differ by. The words, the charges, the accountants and the curve
    have checks of their own.
    """
    reported, found = evidence.report.privacy, evidence.derived
    problems = [
        f"{path} is {said!r} in the report, and {derived!r} by the signed records"
        for name in type(found).model_fields
        if name not in _OWN_CHECKS
        for path, said, derived in _differences(f"privacy.{name}", getattr(reported, name), getattr(found, name))
    ]
    return decide(problems, "each of its fields is derived again from the signed records, and is the same")


def _differences(path: str, reported: object, found: object) -> Iterator[tuple[str, object, object]]:
    """Yield each value that differs, by its path."""
    if isinstance(reported, BaseModel) and type(reported) is type(found):
        for name in type(reported).model_fields:
            if name != "version":  # of a library: the auditor may have another
                yield from _differences(f"{path}.{name}", getattr(reported, name), getattr(found, name))
    elif isinstance(reported, tuple) and isinstance(found, tuple) and len(reported) == len(found):
        for place, (one, other) in enumerate(zip(reported, found, strict=True)):
            yield from _differences(f"{path}.{place}", one, other)
    elif not (isinstance(reported, float) and isinstance(found, float) and _equal(path, reported, found)) and (
        type(reported) is not type(found) or reported != found
    ):
        yield path, reported, found


def _equal(path: str, reported: float, found: float) -> bool:
    """Say whether two numbers of a field are the same up to what another library or machine makes of them."""
    if path.endswith("epsilon"):
        return near(reported, found)
    # Powers and sums, which another machine may round in another way.
    return path.endswith(("value_noise_multiplier", "correlation.error")) and isclose(reported, found)


def mechanism(evidence: Evidence) -> Finding:
    """The mechanism, the unit and the sampling of the report are those of the plan that the run was opened with."""
    reported, privacy, plan = evidence.mechanism, evidence.report.privacy, evidence.plan
    expected = evidence.guarantee
    problems = [
        f"{name} is {getattr(privacy, name)} in the report, and {expected[name]} in the plan"
        for name in ("unit", "neighbouring")
        if getattr(privacy, name) != expected[name]
    ]
    for path, said, planned in _differences("", reported, expected["mechanism"]):
        name = _NAMES.get(path, path.strip(".").replace("_", " "))
        problems.append(f"{name} is {said} in the report, and {planned} in the plan")
    sampling, own = privacy.sampling, mechanism_of_plan(plan).sampling(plan)
    if sampling is not None and sampling.amplification and not own.amplification:
        problems.append("amplification by sampling is claimed, and cohorts are not secret")
    return decide(problems, f"as in the plan {plan.digest[:16]}, which each client's entries name")


_NAMES = {
    ".adaptive_clipping.quantile": "clipping quantile",
    ".adaptive_clipping.learning_rate": "clipping rate",
    ".adaptive_clipping.count_noise": "clipping noise",
    ".adaptive_clipping.value_noise_multiplier": "noise multiplier of the values",
    ".correlation.value_noise_multiplier": "noise multiplier of the draws",
    ".correlation.rounds": "rounds of the correlation",
    ".correlation.separation": "separation",
    ".correlation.bands": "bands",
    ".correlation.error": "error of the model",
}


def words(evidence: Evidence) -> Finding:
    """Who is bounded, who is trusted, what is guaranteed and what is not covered: each as it follows, word by word.

    With secure noise nothing in the report may be read directly from the records: no charge would pay for it.
    """
    report, privacy, expected = evidence.report, evidence.report.privacy, evidence.guarantee
    problems = [
        f"privacy.{name} does not say what follows from the plan, the noise, the transport and epsilon"
        for name in _WORDS
        if getattr(privacy, name) != expected[name]
        and not (name == "statement" and privacy.statement == evidence.earlier_statement)
    ]
    if evidence.first_record.noise == "secure":
        names = ("train_records", "histogram", "owners")
        counts = {f"data.{name}": getattr(report.data, name) for name in names}
        problems += [
            f"{name} is read directly from the records, and with secure noise it must not be there"
            for name, reported in counts.items()
            if reported is not None
        ]
    return decide(problems, "adversaries, trust, statement and gaps are those of the plan, the noise and the transport")


def clients(evidence: Evidence) -> Finding:
    """What the report says of each client is what its ledger gives; every client of the roster is there.

    A site is called by the name in its own statement, and by none where it allows none.
    """
    reported = {client.client: client for client in evidence.report.privacy.clients}
    problems = [
        f"client {client} is missing from privacy.clients"
        for client in evidence.roster.clients
        if client not in reported
    ]
    problems += [
        f"client {client} is in privacy.clients and not in the roster"
        for client in reported
        if client not in evidence.roster.clients
    ]
    if not problems:
        for found in evidence.derived.clients:
            problems += [
                f"client {found.client}: {name} is {getattr(reported[found.client], name)} in the report, and "
                f"{getattr(found, name)} by its ledger and the server's record"
                for name in ("dataset", "entries", "steps", "rounds", "unanswered")
                if getattr(reported[found.client], name) != getattr(found, name)
            ]
    called = {site.client: site.name for site in evidence.report.data.sites}
    stated = {client: ledger.statement for client, ledger in evidence.ledgers.items()}
    allowed = {site.client: site.name for site in site_names(stated)}
    problems += [
        f"client {client} is called {called.get(client)!r} in the report, and signed {allowed.get(client)!r}"
        for client in sorted(called.keys() | allowed.keys())
        if called.get(client) != allowed.get(client)
    ]
    return decide(
        problems, f"data set, entries, steps, rounds and names of {len(reported)} clients are those that they signed"
    )


def events(evidence: Evidence) -> Finding:
    """The charges in the report are exactly those of the ledgers, and the questions that were left unanswered."""
    reported = Counter(map(_key, evidence.report.privacy.events))
    found = Counter(map(_key, evidence.derived.events))
    problems = [f"round {key[2]}, client {key[0]}: a charge is missing from privacy.events" for key in found - reported]
    problems += [
        f"round {key[2]}, client {key[0]}: privacy.events has a charge that nothing gives" for key in reported - found
    ]
    return decide(problems, f"{found.total()} charges are those of the ledgers and of unanswered questions")


def _key(event: PrivacyEvent) -> tuple[int, str, int, float, float, int, IntegerNoise | None]:
    charged = (event.sampling_rate, event.noise_multiplier, event.steps, event.skellam)
    return (event.client, event.run, event.round, *charged)
