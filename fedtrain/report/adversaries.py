"""Who is protected against whom, in words that follow from the plan, the source of noise and the transport.

Secure aggregation bounds nobody: a sum still tells of its members, and only noise bounds how much. It changes what a
server sees that follows the protocol, and in client privacy who is trusted to clip. A server that does not can ask for
the same work twice, in cohorts that differ in one client, and has that client's update in the difference of the sums.
"""

from typing import Literal

from fedtrain.privacy import PrivacyPlan
from fedtrain.report.mechanism import Adversary
from fedtrain.report.transport import Transport


def adversaries(plan: PrivacyPlan, noise: Literal["seeded", "secure"], transport: Transport) -> tuple[Adversary, ...]:
    """Return who is bounded by what. Seeded noise bounds nobody: whoever knows the seed can take it away."""
    found = _record_adversaries(transport) if plan.spec.unit == "record" else _client_adversaries(plan, transport)
    return tuple(
        adversary.model_copy(
            update={"bounded": False, "by": f"nothing: the noise is seeded; with secure noise, {adversary.by}"}
        )
        if noise == "seeded" and adversary.bounded
        else adversary
        for adversary in found
    )


def _record_adversaries(transport: Transport) -> tuple[Adversary, ...]:
    by = "noise in every step at the client"
    server = f"{by}, whatever model is sent"
    if transport.only_sums:
        server += "; that updates are summed bounds nothing"
    return (
        _reader(by),
        Adversary(who="another client", sees=_OTHER_CLIENT, bounded=True, by=by),
        Adversary(
            who="the server, also one that chooses the models it sends",
            sees=_ONLY_SUMS.format("updates")
            if transport.only_sums
            else "every update of every client, and who took part",
            bounded=True,
            by=server,
        ),
        Adversary(who=_RELAY, sees=_SEALED if transport.sealed else _OPEN, bounded=True, by=by),
        _AUDITOR,
    )


def _client_adversaries(plan: PrivacyPlan, transport: Transport) -> tuple[Adversary, ...]:
    sums = transport.only_sums
    return (
        _reader("noise on the sum of the clipped updates"),
        Adversary(
            who="another client",
            sees=_OTHER_CLIENT,
            bounded=True,
            by="noise on the sum; with secret cohorts only as far as it does not learn who else took part",
        ),
        Adversary(
            who="the server",
            sees=_ONLY_SUMS.format("clipped updates") if sums else "every clipped update of every client",
            bounded=False,
            by="nothing: the server is trusted with the sums and the noise; a sum without noise still tells of its "
            "members"
            if sums
            else "nothing: the server is trusted with the updates and the noise",
        ),
        _client_relay(plan, transport),
        _AUDITOR,
    )


def _client_relay(plan: PrivacyPlan, transport: Transport) -> Adversary:
    if not transport.sealed:
        return Adversary(
            who=_RELAY,
            sees=_OPEN,
            bounded=False,
            by="nothing: the record does not say of every round that it was encrypted end to end",
        )
    if plan.spec.secret_cohorts:
        return Adversary(
            who=_RELAY,
            sees=_SEALED,
            bounded=False,
            by="nothing: epsilon relies on nobody knowing who took part; models and updates are encrypted",
        )
    return Adversary(
        who=_RELAY, sees=_SEALED, bounded=True, by="encryption of models and updates, and noise on the sum"
    )


def _reader(by: str) -> Adversary:
    return Adversary(who="whoever gets the model", sees="the final and the best model", bounded=True, by=by)


_AUDITOR = Adversary(
    who="whoever reads this report",
    sees="configuration, measurements on test records, ledgers",
    bounded=True,
    by="all are public constants or computed from released models, except what is listed as not covered",
)

_RELAY = "whoever relays messages between server and clients"
_OPEN = "what the server sees"
_SEALED = "who sends how much to whom, and when; keys, ledgers and statements; models and updates only encrypted"
_OTHER_CLIENT = (
    "the global model of each round that it takes part in, and with secure aggregation who else takes part in it"
)
_ONLY_SUMS = (
    "the sum of the {} of each round, and who took part; a single update with the help of other clients of a cohort, "
    "or if it asks for the same work in cohorts that differ in one client, and subtracts the sums"
)
