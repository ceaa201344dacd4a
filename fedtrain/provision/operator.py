"""The operator's folder, whose holder decides who belongs to a federation. It is kept offline.

``federation.json``, ``membership.json`` and ``directions.json`` are what all pin and see; ``operator.pem`` and
``ca.key`` are secret;
``nodes.json`` has the number of every node there ever was; ``kits/`` and ``server/`` are to be carried to the machines;
``rosters/`` has the keys of each version of the membership, for auditors.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Self, TypeVar

from fedtrain.crypto import Identity, PublicIdentity, SignedEnvelope
from fedtrain.crypto.secrets import read_or_create_secret
from fedtrain.errors import ConfigError, SiteError, StorageError
from fedtrain.files import sync_folder, write_atomic
from fedtrain.machines import Federation, ServerFolder, read_directions, read_membership, write_membership
from fedtrain.machines.federation import DIRECTIONS
from fedtrain.machines.folders import NODE_FILE
from fedtrain.machines.request import Request
from fedtrain.provision.certificates import AUTHORITY_NOTICE, expiry_problem, issue, make_ca
from fedtrain.provision.kit import former_hosts, make_folder, next_identity, take_over, write_certificate, write_kit
from fedtrain.provision.renewal import present_authority, present_certificate
from fedtrain.trust import Directions, Membership, Roster
from fedtrain.trust.membership import NAME

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class OperatorFolder:
    """A federation, as its operator has it.

    Attributes:
        path: the operator's folder.
        federation: what every machine pins.
        operator: the key that signs memberships.
        membership: the newest one.
        directions: the newest ones; ``None`` where the server's first address and authority hold.
        nodes: the number of each node that was ever added, by name.
    """

    path: Path
    federation: Federation
    operator: Identity
    membership: Membership
    directions: Directions | None
    nodes: Mapping[str, int]

    @classmethod
    def create(cls, path: Path, *, address: str, names: tuple[str, ...], days: int, now: datetime) -> Self:
        """Make a federation without nodes.

        Args:
            path: the folder, which is made.
            address: the server's host and port, as nodes reach it.
            names: further names and addresses that its certificate is valid for.
            days: for how long its certificate is valid.
            now: the time, with its zone.

        Raises:
            ConfigError: the folder is there already, or the address is malformed.
            StorageError: it cannot be made; then nothing is left of it.
        """
        if path.exists():
            raise ConfigError(f"{path} is there already, and may hold a federation's keys: name another folder")
        # Whole or not at all: half a federation would have keys that nobody pins.
        temporary = path.with_name(f".{path.name}.{token_hex(6)}.tmp")
        try:
            temporary.mkdir(mode=0o700, parents=True)
            cls._write(temporary, address=address, names=names, days=days, now=now)
            temporary.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            raise StorageError(f"cannot make {path}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls.open(path)

    @staticmethod
    def _write(path: Path, *, address: str, names: tuple[str, ...], days: int, now: datetime) -> None:
        operator = Identity.load_or_create(path / "operator.pem")
        try:
            federation = Federation(id=token_hex(16), address=address, operator=operator.public)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        authority = make_ca(federation.id, now=now)
        read_or_create_secret(path / "ca.key", lambda: authority.key)
        write_atomic(path / "ca.pem", authority.certificate)
        server = ServerFolder(path=path / "server", federation=federation)
        make_folder(server, authority.certificate)
        identity = Identity.load_or_create(server.identity)
        write_certificate(server, issue(authority, [federation.host, *names], now=now, days=days))
        membership = Membership(
            federation=federation.id,
            version=1,
            names={},
            supernodes={},
            roster=Roster(server=identity.public, clients={}),
        )
        federation.write(path)
        write_atomic(path / "nodes.json", b"{}\n")
        (path / "rosters").mkdir()
        _publish(path, server, membership, operator)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the folder, and bring the copies of what was signed up to date, where a command was interrupted.

        Raises:
            SiteError: it is not an operator's folder, or damaged.
            KeyFileError: the operator's key cannot be used.
        """
        federation = Federation.read(path)
        operator = Identity.load(path / "operator.pem")
        if operator.public != federation.operator:
            raise SiteError(f"{path / 'operator.pem'} is not the key that {path / 'federation.json'} names")
        membership, envelope = read_membership(path / "membership.json", federation)
        try:
            nodes = json.loads((path / "nodes.json").read_bytes())
            nodes = {str(name): int(number) for name, number in nodes.items()}
        except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
            raise SiteError(f"cannot read {path / 'nodes.json'}, which numbers the nodes: {error}") from error
        if missing := [f"{name} ({number})" for number, name in membership.names.items() if nodes.get(name) != number]:
            raise SiteError(
                f"{path / 'nodes.json'} does not have the members {', '.join(missing)} under their numbers, as if it "
                "were older than membership.json: put the newer copy back, or write them into it, or names and numbers "
                "would be given twice"
            )
        server = ServerFolder(path=path / "server", federation=federation)
        membership.roster.write(_roster_file(path, membership))
        if server.path.exists():
            write_membership(server.membership, envelope)
            take_over(server, membership)
        directions, signed = read_directions(path / DIRECTIONS, federation) or (None, None)
        if directions is not None and signed is not None:
            spread(path, server, directions, signed)
        return cls(
            path=path,
            federation=federation,
            operator=operator,
            membership=membership,
            directions=directions,
            nodes=nodes,
        )

    @property
    def server(self) -> ServerFolder:
        """The server's folder, to be carried to its machine."""
        return ServerFolder(path=self.path / "server", federation=self.federation)

    @property
    def trusted(self) -> bytes:
        """The certificates of the authorities that nodes trust, PEM.

        Raises:
            SiteError: they cannot be read.
        """
        return present_certificate(self.path) if self.directions is None else self.directions.certificates

    def kit(self, name: str) -> Path:
        """Return the folder of a node's kit."""
        return self.path / "kits" / name

    def add(self, name: str) -> Path:
        """Number a node and make its kit, which is returned. It belongs to the federation when it is admitted.

        Raises:
            ConfigError: the name is malformed, or was given before; or its kit became the folder of a node.
            StorageError: the kit cannot be written.
        """
        if not NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is not a name of a node: up to 63 letters a to z, digits and hyphens")
        if name in self.nodes:
            raise ConfigError(f"there is, or was, a node {name} already: names are not given twice")
        kit = self.kit(name)
        if (kit / "identity.pem").exists():
            raise ConfigError(f"{kit} holds the keys of a node that nodes.json does not name: move it away first")
        # A number stands for one client in every report there is: it is not given twice either.
        number = max(self.nodes.values(), default=-1) + 1
        _, envelope = read_membership(self.path / "membership.json", self.federation)
        temporary = kit.with_name(f".{name}.{token_hex(6)}.tmp")
        try:
            known = read_directions(self.path / DIRECTIONS, self.federation)
            directions = None if known is None else known[1]
            write_kit(temporary, name, number, self.federation, self.trusted, envelope, directions)
            if kit.exists():  # of a command that was interrupted before it numbered the node
                shutil.rmtree(kit)
            temporary.rename(kit)
            sync_folder(kit.parent)
            numbers = json.dumps({**self.nodes, name: number}, indent=2).encode() + b"\n"
            write_atomic(self.path / "nodes.json", numbers)
        except OSError as error:
            raise StorageError(f"cannot write the kit {kit}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return kit

    def admit(self, request: Request, *, rotate: bool) -> Membership:
        """Let a node belong to the federation with the keys of its request; return the membership from now on.

        Args:
            request: the node's request.
            rotate: whether it has other keys already, which these replace.

        Raises:
            ConfigError: the request is of another federation or of a node that was not added; or the node is a member
                with other keys, or one of the keys is another's, or belonged to the federation before.
            KeyFileError: an earlier roster cannot be read.
        """
        if request.federation != self.federation.id:
            raise ConfigError(f"the request is to another federation, {request.federation}")
        if self.nodes.get(request.name) != request.client:
            raise ConfigError(
                f"the request is of a node {request.name} with the number {request.client}, which was not added; "
                f"added: {', '.join(f'{name} ({number})' for name, number in self.nodes.items()) or 'none'}"
            )
        members, client = self.membership, request.client
        keys = (members.roster.clients.get(client), members.supernodes.get(client))
        if keys == (request.identity, request.supernode):
            return members
        if client in members.names and not rotate:
            raise ConfigError(
                f"{request.name} is a member with other keys. If it has new ones, and its site reads out the same "
                "fingerprint, admit it with --rotate"
            )
        if request.identity in self._former_identities():
            raise ConfigError(
                f"the request of {request.name} has keys that were revoked or replaced before: the site makes new ones "
                "with fedtrain client rotate, and sends the request of those"
            )
        return self._sign(
            names={**members.names, client: request.name},
            supernodes={**members.supernodes, client: request.supernode},
            identities={**members.roster.clients, client: request.identity},
        )

    def _former_identities(self) -> set[PublicIdentity]:
        """Return the identities that clients had in earlier versions of the membership, and have no more."""
        rosters = [Roster.read(file) for file in sorted((self.path / "rosters").glob("*.json"))]
        former = {public for roster in rosters for public in roster.clients.values()}
        return former - set(self.membership.roster.clients.values())

    def revoke(self, name: str) -> Membership:
        """Let a node not belong to the federation any more; return the membership from now on.

        Raises:
            ConfigError: it is not a member.
        """
        members = self.membership
        if (client := self.nodes.get(name)) is None or client not in members.names:
            raise ConfigError(f"{name} is not a member; members: {', '.join(members.names.values()) or 'none'}")
        return self._sign(
            names=_without(members.names, client),
            supernodes=_without(members.supernodes, client),
            identities=_without(members.roster.clients, client),
        )

    def rotate_server(self, *, names: tuple[str, ...], days: int, identity: bool, now: datetime) -> Membership:
        """Issue another certificate for the server, and if asked make it another identity.

        With another identity the server's folder need not be here: it is made anew, for a server whose machine is lost.

        Args:
            names: names and addresses to add to those of its certificate so far.
            days: for how long the certificate is valid.
            identity: whether the server gets another identity key, too.
            now: the time, with its zone.

        Returns:
            The membership from now on.

        Raises:
            ConfigError: one of the names is none.
            KeyFileError: the CA's files, or the server's certificate, cannot be used.
            SiteError: there is no certificate of the server.
            StorageError: a file cannot be written.
        """
        server = self.server
        reached = [route.host for route in self.federation.routes(now)]  # those of before, too, within their grace
        hosts = [*reached, *former_hosts(server, lost=identity), *names]
        pair = issue(present_authority(self.path), hosts, now=now, days=days)
        make_folder(server, self.trusted)
        known = read_directions(self.path / DIRECTIONS, self.federation)
        if known is not None:
            write_atomic(server.directions, known[1].line())
        write_certificate(server, pair)
        if not identity:
            return self.membership
        membership = self._sign(
            names=self.membership.names,
            supernodes=self.membership.supernodes,
            identities=self.membership.roster.clients,
            server=next_identity(server).public,
        )
        take_over(server, membership)
        return membership

    def warnings(self, *, now: datetime) -> list[str]:
        """Return what is to be said of certificates that end soon, and what to do."""
        found, renews = [], f"fedtrain provision renew-ca {self.path}"
        retires = None if self.directions is None else self.directions.authorities[-1].retires
        if retires is not None and retires <= now:
            found.append(f"the former CA was to retire on {retires:%Y-%m-%d}; run: {renews} --finish")
        certificate, authority = self.server.certificate, self.path / "ca.pem"
        if retires is None and authority.is_file():
            problem = expiry_problem(
                authority.read_bytes(), "the certificate of the CA", now=now, notice=AUTHORITY_NOTICE
            )
            found += [] if problem is None else [f"{problem}; run: {renews}"]
        if certificate.is_file():
            problem = expiry_problem(certificate.read_bytes(), "the server's certificate", now=now)
            found += [] if problem is None else [f"{problem}; run: fedtrain provision rotate-server {self.path}"]
        return found

    def _sign(
        self,
        *,
        names: Mapping[int, str],
        supernodes: Mapping[int, str],
        identities: Mapping[int, PublicIdentity],
        server: PublicIdentity | None = None,
    ) -> Membership:
        try:
            roster = Roster(server=server or self.membership.roster.server, clients=identities)
            membership = Membership(
                federation=self.federation.id,
                version=self.membership.version + 1,
                names=dict(sorted(names.items())),
                supernodes=dict(sorted(supernodes.items())),
                roster=roster,
            )
        except ValueError as error:
            raise ConfigError(f"the membership would not hold: {error}") from error
        _publish(self.path, self.server, membership, self.operator)
        return membership


def _publish(path: Path, server: ServerFolder, membership: Membership, operator: Identity) -> None:
    """Write a membership; the operator's own copy decides, and the others follow."""
    envelope = membership.sign(operator)
    write_membership(path / "membership.json", envelope)
    membership.roster.write(_roster_file(path, membership))
    if server.path.exists():
        write_membership(server.membership, envelope)


def spread(path: Path, server: ServerFolder, directions: Directions, signed: SignedEnvelope) -> None:
    """Copy directions, and the certificates that they name, to the server's folder and to the kits that are here."""
    folders = [kit for kit in sorted((path / "kits").glob("*")) if (kit / NODE_FILE).exists()]
    for folder in [*([server.path] if server.path.exists() else []), *folders]:
        for name, content in (("ca.pem", directions.certificates), (DIRECTIONS, signed.line())):
            file = folder / name
            if not file.exists() or file.read_bytes() != content:
                write_atomic(file, content)


def _roster_file(path: Path, membership: Membership) -> Path:
    return path / "rosters" / f"{membership.version:06d}.json"


def _without(mapping: Mapping[int, _T], client: int) -> dict[int, _T]:
    return {key: value for key, value in mapping.items() if key != client}
