"""What a report says in words: what a claim rests on, and how a run sent its updates.

The guarantee, the trusted and what is not covered follow from the plan, the source of noise and the transport, so that
an audit can compare them. What depends on the mechanism it says itself (`fedtrain.privacy.mechanisms`); here is what
holds for every one.

Secure aggregation bounds nobody: a sum still tells of its members, and only noise bounds how much. It changes what a
server sees that follows the protocol, and in client privacy who is trusted to clip. A server that does not can ask for
the same work twice, in cohorts that differ in one client, and has that client's update in the difference of the sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Self

from fedtrain.config.sections import ADAPTED, ENCODERS
from fedtrain.ledger import Asked, Record
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.mechanisms import Seen, mechanism_of_plan
from fedtrain.report.numbers import count, short, upper
from fedtrain.report.parts import RoundEntry
from fedtrain.report.privacy import Adversary, Sampling

_NAMED = 8  # clients that are named of many
_LISTED = 20  # columns, likewise


@dataclass(frozen=True, kw_only=True)
class Transport(Seen):
    """What held in a private run so far, by the server's signed record."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> Self:
        """Return what a record allows to say.

        The server signs how it asks before anything is sent. So a round that was asked and never completed counts as
        what it was asked as: clients sent nothing else, if they sent anything. A run that ended early says what held
        in the rounds that it asked, since nobody saw anything of the others; if it goes on, the next report counts them
        all. Where nothing was asked, nothing is said. That a round was completed as it was asked is for the audit to
        check.
        """
        asked = [record for record in records if isinstance(record, Asked)]
        return cls(
            sealed=bool(asked) and all(record.sealed for record in asked),
            summed=any(record.secagg for record in asked),
            only_sums=bool(asked) and all(record.secagg for record in asked),
        )


def summary(rounds: Sequence[RoundEntry]) -> str:
    """Return in one line how many completed rounds were sealed and summed, and how many clients were lost where."""
    if not rounds:
        return "no round was completed"
    sums = [entry.secagg for entry in rounds if entry.secagg is not None]
    text = f"encrypted end to end {_times(sum(entry.sealed for entry in rounds), len(rounds))}; "
    if not sums:
        return f"{text}the server saw single updates"
    text += f"the server saw the sum of the updates alone {_times(len(sums), len(rounds))}; "
    masking, unmasking = sum(entry.lost_masking for entry in sums), sum(entry.lost_unmasking for entry in sums)
    if not masking + unmasking:
        return f"{text}no client was lost"
    return f"{text}clients lost before their update was in the sum: {masking}, after: {unmasking}"


TITLES = {
    "f1": "F1",
    "auroc": "AUROC",
    "mse": "MSE",
    "mae": "MAE",
    "r2": "R²",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "calibration_error": "calibration error",
    "bits_per_token": "bits per token",
    "token_accuracy": "token accuracy",
}


def title(name: str) -> str:
    """Return a metric's name as people write it, at the beginning of a line."""
    known = TITLES.get(name, name)
    return known[:1].upper() + known[1:]


def listed(names: Sequence[str]) -> str:
    """Return the first of names that anyone may have chosen, and how many more there are."""
    more = len(names) - _LISTED
    return ", ".join(short(name, 60) for name in names[:_LISTED]) + (f" and {count(more)} more" if more > 0 else "")


def called(clients: Sequence[int], owners: Sequence[str]) -> str:
    """Return how some clients are called: by number, and by the names of their owners where these are known."""
    names = [f"{client} ({owners[client]})" if client < len(owners) else str(client) for client in clients[:_NAMED]]
    more = f" and {count(len(clients) - _NAMED)} more" if len(clients) > _NAMED else ""
    return f"client {names[0]}" if len(clients) == 1 else f"clients {', '.join(names)}{more}"


def cause(reason: str) -> str:
    """Return the cause in a reason in one line: the last of a traceback, whose end has it, and else the first."""
    lines = reason.strip().splitlines() or [reason]
    return lines[-1 if lines[0].startswith("Traceback") else 0]


def _times(held: int, rounds: int) -> str:
    if held == rounds:
        return "in every round"
    return "in no round" if not held else f"in {held} of {rounds} rounds"


def adversaries(plan: PrivacyPlan, noise: Literal["seeded", "secure"], seen: Seen) -> tuple[Adversary, ...]:
    """Return who is bounded by what. Seeded noise bounds nobody: the seed is enough to subtract it."""
    found = [Adversary(**asdict(adversary)) for adversary in mechanism_of_plan(plan).adversaries(plan, seen)]
    return tuple(
        adversary.model_copy(
            update={"bounded": False, "by": f"nothing: the noise is seeded; with secure noise, {adversary.by}"}
        )
        if noise == "seeded" and adversary.bounded
        else adversary
        for adversary in found
    )


def trusted(plan: PrivacyPlan, seen: Seen) -> tuple[str, ...]:
    """Return whom the guarantee relies on, and for what."""
    return mechanism_of_plan(plan).trusted(plan, seen)


def sampling(plan: PrivacyPlan) -> Sampling:
    """Return how units are chosen, and whether epsilon makes use of it."""
    return Sampling(**asdict(mechanism_of_plan(plan).sampling(plan)))


def statement(plan: PrivacyPlan, epsilon: float, noise: Literal["seeded", "secure"], seen: Seen) -> str:
    """Return the guarantee in plain language: what the definition says of every event, and no more."""
    odds = (
        f"the probability of any conclusion changes by at most a factor of exp({upper(epsilon)}) and an addition of "
        f"{_exactly(plan.spec.delta)}{_condition(plan)}"
    )
    return _stated(plan, odds, noise, seen)


def earlier_statement(plan: PrivacyPlan, epsilon: float, noise: Literal["seeded", "secure"], seen: Seen) -> str:
    """Return the guarantee as reports said it before: a usual reading of delta, which promises a little too much.

    With probability delta or less the odds would change by more than the factor. That is so for a larger delta only.
    """
    odds = (
        f"the odds of any conclusion change by a factor of at most exp({upper(epsilon)}), except with probability "
        f"{plan.spec.delta:g}{_condition(plan)}"
    )
    return _stated(plan, odds, noise, seen)


def _exactly(delta: float) -> str:
    short = f"{delta:g}"
    return short if float(short) == delta else repr(delta)


def _stated(plan: PrivacyPlan, odds: str, noise: Literal["seeded", "secure"], seen: Seen) -> str:
    text = mechanism_of_plan(plan).statement(odds, seen)
    if noise == "seeded":
        text += (
            " This holds for noise that nobody can predict; this run is a simulation with seeded noise, and shows what "
            "a deployment would promise."
        )
    return text


def _condition(plan: PrivacyPlan) -> str:
    """Return what the odds rest on, where clients share the noise."""
    shares = plan.spec.shares
    if shares is None:
        return ""
    return f", as long as no more than {shares.colluders} of the {shares.members} members of a cohort collude"


def accesses_not_covered(plan: PrivacyPlan, noise: Literal["seeded", "secure"]) -> tuple[str, ...]:
    """Return which accesses to the data epsilon does not pay for. With secure noise, a report has no counts."""
    accesses = mechanism_of_plan(plan).accesses()
    return (_COUNTS, *accesses) if noise == "seeded" else accesses


def not_covered(plan: PrivacyPlan, seen: Seen, config: Mapping[str, object]) -> tuple[str, ...]:
    """Return what else epsilon does not cover, by a configuration with dotted keys."""
    return (*_NOT_COVERED, *mechanism_of_plan(plan).gaps(seen), *_encoder(config), *_adapted(config))


def _encoder(config: Mapping[str, object]) -> tuple[str, ...]:
    name = str(config.get("task.encoder", ""))
    if not name:
        return ()
    origin = ENCODERS.get(name) or f"{config.get('task.encoder_origin')} (declared, and not checked)"
    return (f"What the encoder {name} was fitted on, from which the features of the records come: {origin}.",)


def _adapted(config: Mapping[str, object]) -> tuple[str, ...]:
    name = str(config.get("task.model", ""))
    if name not in ADAPTED:
        return ()
    return (f"What the frozen weights of the model {name} were fitted on, which adapters change: {ADAPTED[name]}.",)


_COUNTS = "The label histogram in this report, and the sizes of the data sets: read directly from the data."

RANDOM_SOURCE: dict[Literal["seeded", "secure"], str] = {
    "seeded": "a seeded fast generator, for simulation only: whoever knows the seed can remove the noise",
    "secure": "an AES-256-CTR key stream with a key from the operating system, never stored",
}

_NOT_COVERED = (
    "The test records: they are held by the server, and the best model is selected on them.",
    "Records that are in several data sets of a client: each data set has its own ledger, and their epsilons add up.",
    "Tuning: the choice of the configuration by earlier runs, beyond what is in the ledgers.",
    "One person's records at several clients, and, where the unit is a record, several records of one person.",
    "How long a client takes, whether it answers, and what it gives as the reason if it does not.",
)

COMPOSITION = (
    "For each client over all steps of all runs in the ledger of its data set, this run included; over clients, whose "
    "records are taken to be disjoint, the largest epsilon. A round is charged before a record is trained on, and also "
    "where a client was asked and nothing signed says that it did not train."
)
