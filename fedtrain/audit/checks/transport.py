"""Whether what the report says of encryption and secure aggregation is what the server signed, and was configured."""

from itertools import pairwise

from fedtrain.audit.evidence import Evidence
from fedtrain.audit.verdict import Finding, decide, fails
from fedtrain.config import Experiment, aggregation_problem, from_flat
from fedtrain.config import SecureAggregation as Configured
from fedtrain.config import Transport as ConfiguredTransport
from fedtrain.errors import ConfigError
from fedtrain.ledger import Asked, Completed, SecureSum
from fedtrain.privacy.mechanisms import mechanism_of_plan
from fedtrain.privacy.shares import NoiseShares
from fedtrain.report.parts import RoundEntry
from fedtrain.report.wording import summary
from fedtrain.secagg import Parameters, check_noise

_PARAMETERS = ("threshold", "neighbours", "bits")
# Unset, the server decides. What is missing would be taken for unset.
_KEYS = ("sealed", "secagg.enabled", *(f"secagg.{name}" for name in _PARAMETERS))


def transport(evidence: Evidence) -> Finding:
    """Each round was asked as configured, completed as it was asked, and is reported as the server signed it.

    A sum must be one that the protocol can give: with the parameters that follow from the configuration and the cohort,
    which are refused if they are not safe, and with so many answers that masks could be recovered. Sums may be claimed
    only for a configuration with which an honest server sums.
    """
    report = evidence.report
    problems = [
        f"transport.{key} is missing from the configuration" for key in _KEYS if f"transport.{key}" not in report.config
    ]
    try:
        experiment = from_flat(report.config)
    except ConfigError as error:
        return fails("; ".join([*problems, f"the configuration says nothing of the transport: {error}"]))
    configured = experiment.transport
    if any(record.secagg for record in evidence.asked) or any(record.secagg for record in evidence.completed):
        problems += _impossible(evidence, experiment)
    reported = {entry.round: entry for entry in report.round_log}
    asked: Asked | None = None
    last: dict[int, Completed] = {}
    for record in evidence.records:
        if isinstance(record, Asked):
            asked = record
            problems += _switched(record, configured)
        elif isinstance(record, Completed):
            where = f"round {record.round}"
            last[record.round] = record
            if asked is not None:  # the check "rounds" is about the others
                problems += _otherwise(where, asked, record)
                problems += _shares(where, asked, record, evidence.plan.spec.shares)
            if record.secagg is not None:
                problems += _sum(where, record, record.secagg, asked, secret=evidence.secret)
                problems += _parameters(evidence, where, record, record.secagg, configured.secagg)
    for number, entry in reported.items():
        if number in last:  # the check "round log" is about the others
            problems += _differences(entry, last[number])
    return decide(problems, f"by the server's record: {summary(report.round_log)}{_lost(evidence)}")


def _switched(asked: Asked, configured: ConfiguredTransport) -> list[str]:
    """Say where a round was not asked as it was configured. Unset, the server decides."""
    pairs = {
        "sealed": (configured.sealed, asked.sealed),
        "secagg.enabled": (configured.secagg.enabled, asked.secagg),
    }
    return [
        f"round {asked.round}: transport.{key} = {str(wanted).lower()}, and the record says that it was not so"
        for key, (wanted, signed) in pairs.items()
        if wanted is not None and wanted != signed
    ]


def _otherwise(where: str, asked: Asked, record: Completed) -> list[str]:
    pairs = {"sealed": (asked.sealed, record.sealed), "summed": (asked.secagg, record.secagg is not None)}
    return [
        f"{where}: it was {'' if before else 'not '}to be {word}, and was completed otherwise"
        for word, (before, after) in pairs.items()
        if before != after
    ]


def _shares(where: str, asked: Asked, record: Completed, shares: NoiseShares | None) -> list[str]:
    """Say where a sum has fewer shares of noise in it than epsilon counts, or was asked of another cohort."""
    if shares is None:
        return []
    problems = []
    if len(record.updates) < shares.threshold:
        problems.append(
            f"{where}: {len(record.updates)} clients have shares of the noise in the sum, and epsilon counts on "
            f"{shares.threshold}"
        )
    if len(set(asked.cohort)) != shares.members:
        problems.append(
            f"{where}: it was asked of {len(set(asked.cohort))} clients, and the noise is shared by {shares.members}"
        )
    return problems


def _impossible(evidence: Evidence, experiment: Experiment) -> list[str]:
    """Say why no honest server sums under this configuration; nothing if one can.

    The vector that is summed has a word for each parameter of the model, and may have more: for buffers and counters.
    """
    if problem := aggregation_problem(experiment):
        return [f"updates cannot be summed with this configuration: {problem}"]
    secagg, spec = experiment.transport.secagg, evidence.plan.spec
    by_client = mechanism_of_plan(evidence.plan).clips_updates
    bound = spec.clip_norm if by_client else secagg.largest_change
    try:
        parameters = Parameters.plan(
            members=experiment.federation.cohort,
            length=evidence.report.model.parameters,
            bits=_bits(evidence, secagg),
            bound=bound if spec.shares is None else float(spec.shares.largest),
            threshold=secagg.threshold,
            neighbours=secagg.neighbours,
        )
        if by_client:
            check_noise(parameters, clip_norm=spec.clip_norm, noise_multiplier=evidence.plan.round_noise_multiplier)
    except ConfigError as error:
        return [f"updates cannot be summed with this configuration: {error}"]
    return []


def _bits(evidence: Evidence, secagg: Configured) -> int:
    """Return the bits of a coordinate: where clients share the noise, those of the plan, which the clients signed."""
    shares = evidence.plan.spec.shares
    return secagg.bits_of_change if shares is None else shares.bits


def _lost(evidence: Evidence) -> str:
    """Say how the rounds were asked that were not completed."""
    lost = [
        record
        for record, after in pairwise([*evidence.records, None])
        if isinstance(record, Asked) and not isinstance(after, Completed)
    ]
    if not lost:
        return ""
    sealed, summed = sum(record.sealed for record in lost), sum(record.secagg for record in lost)
    return f"; rounds asked and not completed: {len(lost)}, of them to be encrypted: {sealed}, to be summed: {summed}"


def _sum(where: str, record: Completed, secagg: SecureSum, asked: Asked | None, *, secret: bool) -> list[str]:
    """Say where no run of the protocol gives what the record says."""
    if secret:
        return [f"{where}: those in a sum know each other, and cohorts must be secret"]
    used, silent = {update.client for update in record.updates}, set(secagg.silent)
    cohort = set() if asked is None else set(asked.cohort)
    unnamed = cohort - used - {drop.client for drop in record.dropped}
    wrong = {
        f"nothing says whether {sorted(unnamed)[:3]} of the cohort are in the sum": unnamed,
        f"{sorted(silent - used)[:3]} did not answer the unmasking, and are not in the sum": silent - used,
        "a client is named twice among those that did not answer the unmasking": len(silent) < len(secagg.silent),
        f"the sum is of {len(used)} updates, and hides none": len(used) <= 1,
        f"{len(used) - len(silent)} clients answered the unmasking, and the threshold is {secagg.threshold}": (
            len(used) - len(silent) < secagg.threshold
        ),
    }
    return [f"{where}: {problem}" for problem, found in wrong.items() if found]


def _parameters(
    evidence: Evidence, where: str, record: Completed, secagg: SecureSum, configured: Configured
) -> list[str]:
    """Say where the parameters are not those of the configuration, with the defaults for this cohort."""
    members = len(record.updates) + len(record.dropped)
    try:
        expected = Parameters.plan(
            members=members,
            length=1,
            bits=_bits(evidence, configured),
            bound=1.0,
            threshold=configured.threshold,
            neighbours=configured.neighbours,
        )
    except ConfigError as error:
        return [f"{where}: {error}"]
    return [
        f"{where}: secagg.{name} is {getattr(secagg, name)} by the record, and {getattr(expected, name)} by the "
        f"configuration, in a cohort of {members}"
        for name in _PARAMETERS
        if getattr(secagg, name) != getattr(expected, name)
    ]


def _differences(entry: RoundEntry, record: Completed) -> list[str]:
    signed, reported = record.secagg, entry.secagg
    pairs: dict[str, tuple[object, object]] = {
        "sealed": (entry.sealed, record.sealed),
        "secagg": (reported is not None, signed is not None),
    }
    if reported is not None and signed is not None:
        pairs |= {f"secagg.{name}": (getattr(reported, name), getattr(signed, name)) for name in _PARAMETERS}
        pairs["secagg.lost_masking"] = (reported.lost_masking, len(record.dropped))
        pairs["secagg.lost_unmasking"] = (reported.lost_unmasking, len(signed.silent))
    return [
        f"round {entry.round}: {name} is {str(said).lower()} in the report, and {str(found).lower()} by the record"
        for name, (said, found) in pairs.items()
        if said != found
    ]
