"""``fedtrain provision``: the operator's folder, kept offline."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet
from fedtrain.deployment.processes import only_one
from fedtrain.errors import ForgeryError
from fedtrain.machines import Federation, NodeFolder
from fedtrain.machines.request import read_request
from fedtrain.provision.certificates import hosts_of
from fedtrain.provision.directing import begin_renewal, finish_renewal, readdress
from fedtrain.provision.operator import OperatorFolder
from fedtrain.trust import Directions, Membership

provision = typer.Typer(
    name="provision", help="Say who belongs to a federation: certificates, kits, members.", no_args_is_help=True
)

_LONGEST = 3650  # days: as long as a certificate authority is valid

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
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a federation: the operator's keys, a certificate authority, and the server's folder."""
    with output(as_json, quiet) as out:
        now = datetime.now(UTC)
        operator = OperatorFolder.create(federation, address=address, names=tuple(names or ()), days=days, now=now)
        _warn(operator)
        out.done(
            {**_facts(operator), "server": str(operator.server.path)},
            [
                f"federation {operator.federation.id}, whose server is {address}",
                f"operator's key: {operator.operator.public.key_id[:32]}",
                f"{operator.server.path} is for the server's machine, and holds its keys: carry it there in secret",
                f"{federation} holds the operator's keys: keep it offline, and a copy of it",
                f"next: fedtrain provision add {federation} NAME",
            ],
        )


@provision.command()
def add(
    federation: _Folder,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the node: a-z, 0-9, hyphens.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the kit of a node. It holds no secret."""
    with output(as_json, quiet) as out, _opened(federation) as operator:
        kit = operator.add(name)
        _warn(operator)
        out.done(
            {
                "name": name,
                "client": NodeFolder.open(kit).client,
                "kit": str(kit),
                "operator": operator.operator.public.key_id,
            },
            [
                f"{kit} is the kit of {name}: give it to its site, with the operator's key to compare",
                f"operator's key: {operator.operator.public.key_id[:32]}",
                "next, on the node: fedtrain client init KIT, which makes its keys and request.json",
                f"then: fedtrain provision admit {federation} {name} REQUEST",
            ],
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
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a node belong to the federation with the keys of its request."""
    with output(as_json, quiet) as out, _opened(federation) as operator:
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
        facts = {"name": asked.name, "fingerprint": asked.fingerprint, "compared": fingerprint is not None}
        facts |= _signed(operator, membership.version)
        # What has to be compared is said in any case.
        (out.result if fingerprint is None else out.done)(facts, lines)
        out.say(*_carry(operator, membership.version))


@provision.command()
def revoke(
    federation: _Folder,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a node that is a member.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a node not belong to the federation any more."""
    with output(as_json, quiet) as out, _opened(federation) as operator:
        membership = operator.revoke(name)
        _warn(operator)
        lines = [f"{name} is not a member any more", *_carry(operator, membership.version)]
        out.done({"name": name} | _signed(operator, membership.version), lines)


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
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Issue another certificate for the server, with another key."""
    with output(as_json, quiet) as out, _opened(federation) as operator:
        server = operator.server
        lost = not server.certificate.exists()
        membership = operator.rotate_server(
            names=tuple(names or ()), days=days, identity=identity, now=datetime.now(UTC)
        )
        keys = [server.certificate, server.certificate_key, *([server.identity] if identity else [])]
        what = f"{server.path}, made anew," if lost else ", ".join(map(str, keys))
        _warn(operator)
        hosts = hosts_of(server.certificate.read_bytes())
        carried = [server.path] if lost else keys
        facts = {"hosts": list(hosts), "carry": [str(path) for path in carried]}
        out.done(
            facts | (_signed(operator, membership.version) if identity else {}),
            [
                f"the certificate is for {', '.join(hosts)}",
                f"carry {what} to the server's machine, in secret, and start it again",
                *(_carry(operator, membership.version) if identity else []),
            ],
        )


@provision.command(name="readdress")
def move(
    federation: _Folder,
    address: Annotated[str, typer.Option("--address", metavar="HOST:PORT", help="Where nodes will reach the server.")],
    grace: Annotated[
        int,
        typer.Option("--grace", min=0, max=_LONGEST, help="For how many days nodes also try the address of before."),
    ] = 30,
    days: _Days = 365,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Move the server to another address, which nodes follow by themselves."""
    with output(as_json, quiet) as out, _opened(federation) as operator:
        before, now = operator.federation.address, datetime.now(UTC)
        directions = readdress(operator, address, grace=timedelta(days=grace), days=days, now=now)
        if grace == 0:
            sys.stderr.write(
                f"warning: without a time of grace no node is told at {before}: each site runs fedtrain client follow "
                "KIT directions.json\n"
            )
        _warn(operator)
        carried, lines = _carry_directions(operator, certificate=True)
        out.done(
            {"address": address, "directions": directions.version, "former": _former(directions), "carry": carried},
            [
                f"the server is at {address}, and was at {before}: directions version {directions.version}",
                *(f"until {until} nodes also try {former}" for former, until in _former(directions).items()),
                *lines,
            ],
        )


@provision.command(name="renew-ca")
def renew_ca(
    federation: _Folder,
    grace: Annotated[
        int,
        typer.Option(
            "--grace", min=0, max=_LONGEST, help="For how many days the former CA is to be used beside the next one."
        ),
    ] = 90,
    finish: Annotated[
        bool, typer.Option("--finish", help="End the renewal: nodes trust the next CA alone from then on.")
    ] = False,
    days: _Days = 365,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Renew the certificate authority, which nodes follow by themselves: once to begin, and again to finish."""
    with output(as_json, quiet) as out, _opened(federation) as operator:
        now = datetime.now(UTC)
        if finish:
            before = _retires(operator.directions)
            directions = finish_renewal(operator, days=days, now=now)
            if before is not None and now < before:
                sys.stderr.write(
                    f"warning: the former CA was to be used until {before:%Y-%m-%d}; a node that has not asked since "
                    "the renewal began connects again after: fedtrain client follow KIT directions.json\n"
                )
            said = [f"nodes trust the new CA alone: directions version {directions.version}"]
            then = []
        else:
            directions = begin_renewal(operator, grace=timedelta(days=grace), now=now)
            said = [
                f"nodes trust the next CA beside the former one: directions version {directions.version}",
                f"the former one retires on {_retires(directions):%Y-%m-%d}",
            ]
            then = [f"then, when all nodes have asked: fedtrain provision renew-ca {federation} --finish"]
        _warn(operator)
        carried, lines = _carry_directions(operator, certificate=finish)
        retires = _retires(directions)
        out.done(
            {
                "directions": directions.version,
                "retires": None if retires is None else f"{retires:%Y-%m-%d}",
                "carry": carried,
            },
            [*said, *lines, *then],
        )


def _former(directions: Directions) -> dict[str, str]:
    return {one.address: f"{one.until:%Y-%m-%d}" for one in directions.former}


def _retires(directions: Directions | None) -> datetime | None:
    return None if directions is None else directions.authorities[-1].retires


def _carry_directions(operator: OperatorFolder, *, certificate: bool) -> tuple[list[str], list[str]]:
    """Return what is to be carried to the server's machine, and how to say so."""
    server = operator.server
    files = [server.directions, server.ca, *([server.certificate, server.certificate_key] if certificate else [])]
    carried, secret = [str(file) for file in files], ", in secret" if certificate else ""
    return carried, [
        f"carry {', '.join(carried)} to the server's machine{secret}, and start it again; it tells the nodes",
        f"a node that is away meanwhile: give its site {server.directions}, and let it run fedtrain client follow",
    ]


@provision.command(name="list")
def show(federation: _Folder, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show the nodes: their names, numbers, and whether they are members."""
    with output(as_json, quiet) as out, _opened(federation) as operator:
        members = operator.membership
        nodes = [_node(name, number, members) for name, number in operator.nodes.items()]
        _warn(operator)
        lines = [
            f"federation {operator.federation.id}, {operator.federation.address}, membership version {members.version}"
        ]
        lines += _directed(operator.directions)
        for node in nodes:
            member = "member" if node["member"] else "not a member"
            lines.append(f"{node['client']:4}  {node['name']:24}  {member:12}  {(node['key'] or '')[:16]}")
        facts = _facts(operator) | {"version": members.version, "directions": operator.federation.directions}
        out.result(facts | {"nodes": nodes}, lines)


def _node(name: str, number: int, members: Membership) -> dict[str, Any]:
    member = number in members.names
    key = members.roster.clients[number].key_id if member else None
    return {"name": name, "client": number, "member": member, "key": key}


def _directed(directions: Directions | None) -> list[str]:
    """Say what the directions are, where there are any."""
    if directions is None:
        return []
    lines = [f"directions version {directions.version}"]
    lines += [f"until {until} nodes also try {address}" for address, until in _former(directions).items()]
    if (retires := _retires(directions)) is not None:
        lines.append(f"the CA is being renewed; the former one retires on {retires:%Y-%m-%d}")
    return lines


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
        f"{_roster(operator, version)} has the keys for auditors of runs from now on",
    ]


def _plain(fingerprint: str) -> str:
    return "".join(fingerprint.split()).lower()


def _warn(operator: OperatorFolder) -> None:
    for problem in operator.warnings(now=datetime.now(UTC)):
        sys.stderr.write(f"warning: {problem}\n")


def _facts(operator: OperatorFolder) -> dict[str, Any]:
    federation = operator.federation
    return {"federation": federation.id, "address": federation.address, "operator": federation.operator.key_id}


def _signed(operator: OperatorFolder, version: int) -> dict[str, Any]:
    return {
        "version": version,
        "membership": str(operator.server.membership),
        "roster": str(_roster(operator, version)),
    }


def _roster(operator: OperatorFolder, version: int) -> Path:
    return operator.path / "rosters" / f"{version:06d}.json"
