"""``fedtrain provision``: the operator's folder, kept offline."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.running import reporting_errors
from fedtrain.deployment.processes import only_one
from fedtrain.errors import ForgeryError
from fedtrain.machines import Federation
from fedtrain.machines.request import read_request
from fedtrain.provision.certificates import hosts_of
from fedtrain.provision.operator import OperatorFolder

provision = typer.Typer(
    name="provision", help="Say who belongs to a federation: certificates, kits, members.", no_args_is_help=True
)

_Folder = Annotated[Path, typer.Argument(metavar="FEDERATION", help="The operator's folder, kept offline.")]
_Days = Annotated[int, typer.Option("--days", min=1, help="For how long the server's certificate is valid.")]


@provision.command()
def init(
    federation: _Folder,
    address: Annotated[str, typer.Option("--address", metavar="HOST:PORT", help="Where nodes reach the server.")],
    names: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="HOST", help="Another name or address of the server. Repeatable."),
    ] = None,
    days: _Days = 365,
) -> None:
    """Make a federation: the operator's keys, a certificate authority, and the server's folder."""
    with reporting_errors():
        now = datetime.now(UTC)
        operator = OperatorFolder.create(federation, address=address, names=tuple(names or ()), days=days, now=now)
        _warn(operator)
        _say(
            [
                f"federation {operator.federation.id}, whose server is {address}",
                f"operator's key: {operator.operator.public.key_id[:32]}",
                f"{operator.server.path} is for the server's machine, and holds its keys: carry it there in secret",
                f"{federation} holds the operator's keys: keep it offline, and a copy of it",
                f"next: fedtrain provision add {federation} NAME",
            ]
        )


@provision.command()
def add(
    federation: _Folder, name: Annotated[str, typer.Argument(metavar="NAME", help="Of the node: a-z, 0-9, hyphens.")]
) -> None:
    """Make the kit of a node. It holds no secret."""
    with reporting_errors(), _opened(federation) as operator:
        kit = operator.add(name)
        _warn(operator)
        _say(
            [
                f"{kit} is the kit of {name}: give it to its site, with the operator's key to compare",
                f"operator's key: {operator.operator.public.key_id[:32]}",
                "next, on the node: fedtrain client init KIT, which makes its keys and request.json",
                f"then: fedtrain provision admit {federation} {name} REQUEST",
            ]
        )


@provision.command()
def admit(
    federation: _Folder,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the node, as it was added.")],
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The node's request.json.")],
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", help="What the site read out; without it the fingerprint is shown to compare."),
    ] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Replace the keys of a node that is a member.")] = False,
) -> None:
    """Let a node belong to the federation with the keys of its request."""
    with reporting_errors(), _opened(federation) as operator:
        asked = read_request(request)
        if asked.name != name:
            # Whose fingerprint is compared is the operator's to say, and not the request's.
            raise ForgeryError(
                f"the request is of {asked.name!r}, and not of {name!r}: nothing was signed; ask the site of {name}"
            )
        if fingerprint is not None and _plain(fingerprint) != _plain(asked.fingerprint):
            raise ForgeryError(
                f"the request has the fingerprint {asked.fingerprint}, and the site read out another: somebody "
                "may have replaced it; nothing was signed"
            )
        membership = operator.admit(asked, rotate=rotate)
        _warn(operator)
        lines = [f"{asked.name} is a member, with the fingerprint {asked.fingerprint}"]
        if fingerprint is None:
            lines.append("before you carry the membership: compare it with what the site reads out, or revoke the node")
        _say([*lines, *_carry(operator, membership.version)])


@provision.command()
def revoke(
    federation: _Folder, name: Annotated[str, typer.Argument(metavar="NAME", help="Of a node that is a member.")]
) -> None:
    """Let a node not belong to the federation any more."""
    with reporting_errors(), _opened(federation) as operator:
        membership = operator.revoke(name)
        _warn(operator)
        _say([f"{name} is not a member any more", *_carry(operator, membership.version)])


@provision.command(name="rotate-server")
def rotate_server(
    federation: _Folder,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="HOST", help="Another name or address of the server. Repeatable."),
    ] = None,
    days: _Days = 365,
    identity: Annotated[
        bool,
        typer.Option(
            "--identity", help="Also make the server another identity key, or another server if its folder is lost."
        ),
    ] = False,
) -> None:
    """Issue another certificate for the server, with another key."""
    with reporting_errors(), _opened(federation) as operator:
        server = operator.server
        lost = not server.certificate.exists()
        membership = operator.rotate_server(
            names=tuple(names or ()), days=days, identity=identity, now=datetime.now(UTC)
        )
        keys = [server.certificate, server.certificate_key, *([server.identity] if identity else [])]
        what = f"{server.path}, made anew," if lost else ", ".join(map(str, keys))
        _warn(operator)
        _say(
            [
                f"the certificate is for {', '.join(hosts_of(server.certificate.read_bytes()))}",
                f"carry {what} to the server's machine, in secret, and start it again",
                *(_carry(operator, membership.version) if identity else []),
            ]
        )


@provision.command(name="list")
def show(federation: _Folder) -> None:
    """Show the nodes: their names, numbers, and whether they are members."""
    with reporting_errors(), _opened(federation) as operator:
        members = operator.membership
        lines = [
            f"federation {operator.federation.id}, {operator.federation.address}, membership version {members.version}"
        ]
        for name, number in operator.nodes.items():
            member = number in members.names
            key = members.roster.clients[number].key_id[:16] if member else ""
            lines.append(f"{number:4}  {name:24}  {'member' if member else 'not a member':12}  {key}")
        _warn(operator)
        _say(lines)


@contextmanager
def _opened(path: Path) -> Iterator[OperatorFolder]:
    """Open an operator's folder for this command alone: two would sign different memberships of one version."""
    Federation.read(path)
    with only_one(path):
        yield OperatorFolder.open(path)


def _carry(operator: OperatorFolder, version: int) -> list[str]:
    return [
        (
            f"membership version {version}: carry {operator.server.membership} to the server's machine, "
            "which tells the nodes"
        ),
        f"{operator.path / 'rosters' / f'{version:06d}.json'} has the keys for auditors of runs from now on",
    ]


def _plain(fingerprint: str) -> str:
    return "".join(fingerprint.split()).lower()


def _warn(operator: OperatorFolder) -> None:
    for problem in operator.warnings(now=datetime.now(UTC)):
        sys.stderr.write(f"warning: {problem}\n")


def _say(lines: Iterable[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
