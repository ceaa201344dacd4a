"""Whether the report agrees with the server's record: how the run was opened, its rounds and its end."""

from collections import Counter
from itertools import pairwise

from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Finding, UnprovenError, decide, fails
from fedtrain.config.loading import config_digest
from fedtrain.ledger import Asked, Closed, Completed, Record
from fedtrain.report.numbers import counted
from fedtrain.report.parts import RoundEntry
from fedtrain.report.schema import body_digest


def first_record(evidence: Evidence) -> Finding:
    """The server opened the run with what the report says: run, configuration, mode, plan, noise, keys."""
    report, first, mechanism = evidence.report, evidence.first_record, evidence.mechanism
    pairs = {
        "run": (first.run, report.run),
        "mode": (first.mode, report.privacy.mode),
        "configuration digest": (first.config, config_digest(report.config)),
        "noise": (first.noise, report.privacy.noise),
        "clients": (first.clients, report.data.clients),
        "planned rounds": (first.rounds, report.planned_rounds),
        "roster digest": (first.roster, evidence.opening.digest),
    }
    problems = [
        f"{name}: {signed} in the first record, {reported} in the report"
        for name, (signed, reported) in pairs.items()
        if signed != reported
    ]
    if first.plan != mechanism.plan:
        problems.append("the plan of the report is not the one that the run was opened with")
    problems += _paid(evidence)
    return decide(
        problems, "run, configuration, mode, plan, noise and keys are those that the server opened the run with"
    )


def _paid(evidence: Evidence) -> list[str]:
    """Say where the plan does not pay for the rounds, or is none."""
    planned = evidence.first_record.rounds
    try:
        spec, secret = evidence.plan.spec, evidence.secret
    except UnprovenError as error:
        return [str(error)]
    if secret and spec.rounds != planned:
        return [f"the plan pays for {spec.rounds} rounds, and the run was opened with {planned}"]
    if spec.correlation is not None and spec.correlation.rounds != planned:
        return [f"the noise is correlated over {spec.correlation.rounds} rounds, and the run was opened with {planned}"]
    return []


def closing(evidence: Evidence) -> Finding:
    """The server's last record signs how the run ended, and everything in the report but the proof."""
    report, last = evidence.report, evidence.records[-1] if evidence.records else None
    if not isinstance(last, Closed):
        kind = "there is none" if last is None else f"its last record is of kind {last.kind}"
        return fails(f"the server's record does not end with a closing: {kind}")
    problems = []
    if last.status != report.status:
        problems.append(f"the server closed the run as {last.status}, and the report says {report.status}")
    if last.rounds != report.rounds:
        problems.append(f"the server closed the run after round {last.rounds}, and the report says {report.rounds}")
    if last.report != body_digest(report):
        problems.append("the report was changed after it was signed: its digest is another than the closing has")
    return decide(
        problems, f"{last.status} after {counted(last.rounds, 'round')}; the report is the one that the server signed"
    )


def rounds(evidence: Evidence) -> Finding:
    """Rounds were asked before they were completed, one after the other, each of those that took part in them.

    A run that is resumed may do a round again, as far as that is paid for. One that stopped may have lost its last.
    """
    problems: list[str] = []
    done, planned, reported = 0, evidence.first_record.rounds, evidence.report.rounds
    open_: Asked | None = None
    for record in evidence.records:
        if isinstance(record, Asked):
            if record.round > planned:
                problems.append(f"round {record.round} was asked, and the run was opened with {planned}")
            if not 1 <= record.round <= done + 1:
                problems.append(f"round {record.round} was asked after {counted(done, 'round')}")
            open_ = record
        elif isinstance(record, Completed):
            problems += _completed(record, open_)
            done, open_ = max(done, record.round), None
    lost = 1 if evidence.report.status != "completed" else 0
    if not reported <= done <= reported + lost:
        problems.append(f"the server completed {counted(done, 'round')}, and the report says {reported}")
    problems += _repeats(evidence)
    more = ", and another that was lost when the run stopped" if done > reported else ""
    return decide(problems, f"{counted(reported, 'round')}, each asked before it was completed{more}")


def _completed(record: Completed, asked: Asked | None) -> list[str]:
    if asked is None or (asked.round, asked.model) != (record.round, record.model):
        return [f"round {record.round} was completed without having been asked with that model"]
    named = Counter([*(update.client for update in record.updates), *(drop.client for drop in record.dropped)])
    cohort = set(asked.cohort)
    problems = [f"round {record.round}: client {client} was not asked" for client in named if client not in cohort]
    problems += [
        f"round {record.round}: client {client} is named twice" for client in sorted(named) if named[client] > 1
    ]
    return problems


def log(evidence: Evidence) -> Finding:
    """The rounds of the report are those of the server's record: who was asked, used and dropped, and the clip norm."""
    reported = {entry.round: entry for entry in evidence.report.round_log}
    asked = {record.round: record for record in evidence.asked}
    # What was completed after the last round of the report was lost: the check "rounds" is about it.
    completed = {record.round: record for record in evidence.completed if record.round <= evidence.report.rounds}
    problems = [
        f"round {number} is in the report's log and was never completed"
        for number in reported
        if number not in completed
    ]
    for number, record in completed.items():
        if number not in reported:
            problems.append(f"round {number} was completed and is missing from the report's log")
            continue
        problems += _differences(reported[number], record, asked.get(number), secret=evidence.secret)
    return decide(problems, f"{counted(len(reported), 'round')}, as the server recorded them")


def _differences(entry: RoundEntry, record: Completed, asked: Asked | None, *, secret: bool) -> list[str]:
    where = f"round {entry.round}"
    problems = (
        []
        if entry.clip_norm == record.clip_norm
        else [f"{where}: clip norm {entry.clip_norm}, recorded {record.clip_norm}"]
    )
    if secret:
        hidden = (entry.cohort, entry.completed, entry.dropped) == (None, None, None)
        return problems if hidden else [*problems, f"{where}: names a cohort that must be secret"]
    cohort = set() if asked is None else set(asked.cohort)
    pairs = {
        "cohort": (set(entry.cohort or ()), cohort),
        "completed": (set(entry.completed or ()), {update.client for update in record.updates}),
        "dropped": ({drop.client for drop in entry.dropped or ()}, {drop.client for drop in record.dropped}),
    }
    for name, (reported, signed) in pairs.items():
        problems += [f"{where}: {name} lacks client {client}" for client in sorted(signed - reported)]
        problems += [
            f"{where}: {name} names client {client} against the record" for client in sorted(reported - signed)
        ]
    return problems


def _repeats(evidence: Evidence) -> list[str]:
    """Say which rounds were released more than once, where cohorts are secret and each round is reserved once.

    A round may be done again if its model was lost before it had a checkpoint: then its record is followed by the same
    question again, or by an end of the run before it. With secure noise, what is followed by anything else was
    released. With seeded noise the same model comes again, and tells nothing new. Elsewhere each repetition has a
    reservation of its own.
    """
    if not evidence.secret:
        return []
    problems: list[str] = []
    models: dict[int, str] = {}
    released: dict[int, Completed] = {}
    secure = evidence.first_record.noise == "secure"
    for record, after in pairwise([*evidence.records, None]):
        if isinstance(record, Asked) and models.setdefault(record.round, record.model) != record.model:
            problems.append(f"round {record.round} was asked with two models: the round before was released twice")
        if not isinstance(record, Completed):
            continue
        if secure and _lost(record, after):
            continue
        before = released.setdefault(record.round, record)
        if before is record:
            continue
        if secure:
            problems.append(f"round {record.round} was released twice, and reserved once")
        elif before.aggregate != record.aggregate:
            problems.append(f"round {record.round} was done twice and gave two models, and it was reserved once")
    return problems


def _lost(record: Completed, after: Record | None) -> bool:
    if isinstance(after, Asked):
        return after.round == record.round
    return isinstance(after, Closed) and after.rounds < record.round
