"""The operator moves a federation's server to another address, or renews its certificate authority.

Both are versions of the directions that the operator's key signs. The server hands them to every node that asks.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fedtrain.errors import ConfigError, SiteError
from fedtrain.files import write_atomic
from fedtrain.machines.federation import DIRECTIONS
from fedtrain.provision.certificates import end_of, issue, make_ca
from fedtrain.provision.kit import former_hosts, write_certificate
from fedtrain.provision.operator import OperatorFolder, spread
from fedtrain.provision.renewal import next_certificate, present_authority, present_certificate, promote, stage
from fedtrain.trust import Authority, Directions, Former


def readdress(operator: OperatorFolder, address: str, *, grace: timedelta, days: int, now: datetime) -> Directions:
    """Move a federation's server to another address; return the directions from now on.

    The server's certificate is issued anew, also for the new host, and stays valid for those before.

    Args:
        operator: the operator's folder.
        address: host and port, as nodes will reach it.
        grace: for how long nodes also try the address of before.
        days: for how long the server's certificate is valid.
        now: the time, with its zone.

    Raises:
        ConfigError: the address is malformed, or is the one that it has.
        KeyFileError: the authority's files, or the server's certificate, cannot be used.
        SiteError: there is no certificate of the server.
        StorageError: a file cannot be written.
    """
    federation = operator.federation
    try:
        host = replace(federation, address=address, former=()).host
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if address == federation.address:
        raise ConfigError(f"the server of this federation is at {address} already")
    former = [one for one in federation.former if now < one.until and one.address != address]
    if grace > timedelta(0):
        former.insert(0, Former(address=federation.address, until=_whole(now + grace)))
    hosts = [host, *former_hosts(operator.server, lost=False)]
    certificate = issue(present_authority(operator.path), hosts, now=now, days=days)
    directions = _next(operator, address=address, former=tuple(former))
    # First what serves both addresses: whoever carries half of this has not yet moved anybody.
    write_certificate(operator.server, certificate)
    _publish(operator, directions)
    return directions


def begin_renewal(operator: OperatorFolder, *, grace: timedelta, now: datetime) -> Directions:
    """Make the next certificate authority, and let nodes trust both; return the directions from now on.

    Args:
        operator: the operator's folder.
        grace: for how long the present authority is meant to be used beside it, but no longer than it is valid.
        now: the time, with its zone.

    Raises:
        ConfigError: one was begun already.
        SiteError: the present authority's certificate cannot be read, or there is no folder of the server.
        KeyFileError, StorageError: a file cannot be read or written.
    """
    if (begun := _renewal(operator)) is not None:
        raise ConfigError(
            f"the CA is being renewed already, and the former one retires on {begun:%Y-%m-%d}: end it with --finish"
        )
    if not operator.server.path.exists():
        raise SiteError(
            f"there is no {operator.server.path}, from which directions.json and ca.pem are carried: if it was moved "
            "to the server's machine, make the folder again, and bring server.crt back, which --finish needs"
        )
    present = present_certificate(operator.path)
    # One that was interrupted before its directions were signed is known to nobody, and goes on.
    following = next_certificate(operator.path)
    if following is None:
        authority = make_ca(operator.federation.id, now=now)
        stage(operator.path, authority)
        following = authority.certificate
    retires = _whole(min(now + grace, end_of(present)))
    directions = _next(
        operator,
        authorities=(
            Authority(certificate=following.decode()),
            Authority(certificate=present.decode(), retires=retires),
        ),
    )
    _publish(operator, directions)
    return directions


def finish_renewal(operator: OperatorFolder, *, days: int, now: datetime) -> Directions:
    """Let the next certificate authority take the place of the present one, which nodes trust no longer.

    Args:
        operator: the operator's folder.
        days: for how long the server's new certificate is valid.
        now: the time, with its zone.

    Returns:
        The directions from now on.

    Raises:
        ConfigError: none was begun.
        KeyFileError: the authority's files, or the server's certificate, cannot be used.
        SiteError: there is no certificate of the server.
        StorageError: a file cannot be written; the same command goes on from there.
    """
    if operator.directions is None or _renewal(operator) is None:
        raise ConfigError("the CA is not being renewed: begin with fedtrain provision renew-ca, without --finish")
    hosts = former_hosts(operator.server, lost=False)
    promote(operator.path)
    write_certificate(operator.server, issue(present_authority(operator.path), hosts, now=now, days=days))
    directions = _next(operator, authorities=operator.directions.authorities[:1])
    _publish(operator, directions)
    return directions


def _renewal(operator: OperatorFolder) -> datetime | None:
    """Return when the former authority retires; ``None`` if there is one authority alone."""
    return None if operator.directions is None else operator.directions.authorities[-1].retires


def _next(operator: OperatorFolder, **changes: Any) -> Directions:
    """Return the next version of the directions: the present ones with changes."""
    known, federation = operator.directions, operator.federation
    values: Mapping[str, Any] = {
        "federation": federation.id,
        "version": federation.directions + 1,
        "address": federation.address,
        "former": federation.former,
        "authorities": ((Authority(certificate=operator.trusted.decode()),) if known is None else known.authorities),
        **changes,
    }
    try:
        return Directions(**values)
    except ValueError as error:
        raise ConfigError(f"the directions would not hold: {error}") from error


def _publish(operator: OperatorFolder, directions: Directions) -> None:
    """Write directions; the operator's own copy decides, and the others follow."""
    envelope = directions.sign(operator.operator)
    write_atomic(operator.path / DIRECTIONS, envelope.line())
    spread(operator.path, operator.server, directions, envelope)


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
