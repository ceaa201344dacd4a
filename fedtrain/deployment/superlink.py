"""A server in service: Flower's SuperLink on loopback, the gateway before it, and what starts ServerApps."""

import json
import os
import re
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import chain
from pathlib import Path

from fedtrain.crypto import Identity
from fedtrain.deployment.gateway import find_nginx, free_places, refuse_taken_port, write_configuration
from fedtrain.deployment.news import RunNews
from fedtrain.deployment.processes import Processes, delays, environment, make_secret, program, superexec
from fedtrain.errors import KeyFileError, RunError, SiteError, StorageError
from fedtrain.files import write_atomic
from fedtrain.health.keys import covers, read_certificate, read_certificates
from fedtrain.health.network import trusting
from fedtrain.health.server import certificate_checks, directions_hold
from fedtrain.machines.federation import read_membership
from fedtrain.machines.folders import SERVER_VARIABLE, ServerFolder
from fedtrain.report.numbers import short

SUPERLINK, GATEWAY, SUPEREXEC, MEMBERS = "superlink", "gateway", "superexec", "members"
CONNECTION = "fedtrain"

_TIMEOUT = 60.0  # seconds for the SuperLink, and then the gateway, to answer
_PAUSE = 0.5  # seconds between two looks
_FLOWERS = "Using SuperLink: "  # what Flower prints where it makes a client
_STABLE = 60.0  # seconds after which an end is not taken for a failure to start
_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception)\b")  # the last line of a trace
_QUOTED = 300  # letters


@dataclass(frozen=True, kw_only=True)
class Service:
    """How the programs of a server reach one another.

    Attributes:
        server: its folder.
        port: the SuperLink's port on loopback.
    """

    server: ServerFolder
    port: int

    @property
    def address(self) -> str:
        """The SuperLink's address."""
        return f"127.0.0.1:{self.port}"

    @property
    def secret(self) -> Path:
        """What the SuperLink and the program that starts ServerApps know each other by."""
        return self.server.path / "run" / "superexec.secret"

    @property
    def home(self) -> Path:
        """Flower's own folder."""
        return self.server.path / "run" / "flwr"

    def environment(self) -> dict[str, str]:
        """Return what all of Flower's programs find in their environment."""
        return environment(self.home)

    def healthy(self, *, gateway: bool = False) -> bool:
        """Say whether the SuperLink answers, by itself or through the gateway."""
        port = self.server.federation.port if gateway else self.port
        with suppress(urllib.error.URLError, OSError, ssl.SSLError):
            trusted = urllib.request.HTTPSHandler(context=trusting(self.server.ca))
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trusted)
            with opener.open(f"https://127.0.0.1:{port}/health", timeout=5) as answer:
                return bool(answer.status == HTTPStatus.OK)
        return False


def check(server: ServerFolder) -> None:
    """Check the files of a server that its service needs.

    Raises:
        KeyFileError: a key cannot be used, or is not the one that the membership or certificate is for; or nodes would
            follow the directions to where they do not trust this server.
        SiteError: the membership or the directions cannot be used.
    """
    identity = Identity.load(server.identity).public
    membership, _ = read_membership(server.membership, server.federation)
    if membership.roster.server != identity:
        raise KeyFileError(f"{server.identity} is not the key of the server that {server.membership} names")
    # Nodes would turn away from any other certificate, each with an error of its own.
    authorities, own = read_certificates(server.ca), read_certificate(server.certificate)
    local = (covers(own, host) for host in ("localhost", "127.0.0.1"))
    for found in chain(certificate_checks(server, authorities, own), local, directions_hold(server, own)):
        if found.status == "fails":
            raise KeyFileError(f"{found.name}: {found.detail}")


def serve(service: Service, processes: Processes, say: Callable[[str], None]) -> None:
    """Keep a server in service until this process is stopped.

    Args:
        service: how its programs reach one another.
        processes: starts and ends them.
        say: tells a person what changed.

    Raises:
        StorageError: a file cannot be written.
        RunError: a port is in use, or a program cannot be started, or ends at once.
    """
    server = service.server
    nginx = find_nginx()
    now = datetime.now(UTC)
    listens = free_places(server.federation, now, say)
    former = [route.address for route in server.federation.routes(now)[1:] if route.port in listens]
    refuse_taken_port(["127.0.0.1"], service.port, what="the SuperLink's, on loopback (--port)")
    make_secret(service.secret)
    service.home.mkdir(parents=True, exist_ok=True)
    connection = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{service.address}"\n'
    trusted = f"root-certificates = {json.dumps(str(server.ca), ensure_ascii=False)}\n"
    write_atomic(service.home / "config.toml", f"{connection}{trusted}".encode())
    with tempfile.TemporaryDirectory(prefix="fedtrain-gateway-") as temporary:
        Path(temporary).chmod(0o711)
        configuration = server.path / "run" / "nginx.conf"
        write_configuration(
            configuration,
            server,
            superlink=service.port,
            temporary=Path(temporary),
            root=os.geteuid() == 0,
            listens=listens,
        )
        commands: dict[str, list[str | Path]] = {
            SUPERLINK: _superlink(service),
            GATEWAY: [nginx, "-e", "stderr", "-p", temporary, "-c", configuration],
            SUPEREXEC: superexec(service.port, service.secret, ca=server.ca),
            MEMBERS: [sys.executable, "-m", "fedtrain.flower.members", server.path, service.address],
        }
        try:
            _keep(service, processes, commands, say, former=former)
        finally:
            processes.stop(GATEWAY)  # while its folder is there


def _keep(
    service: Service,
    processes: Processes,
    commands: dict[str, list[str | Path]],
    say: Callable[[str], None],
    *,
    former: Sequence[str],
) -> None:
    variables = service.environment() | {SERVER_VARIABLE: str(service.server.path)}
    starts = {name: processes.size(name) for name in commands}
    with new_database(service.server):
        processes.start(SUPERLINK, commands[SUPERLINK], variables)
        awaited(service.healthy, processes, {SUPERLINK: starts[SUPERLINK]})
    for name in (MEMBERS, SUPEREXEC, GATEWAY):
        processes.start(name, commands[name], variables)
    awaited(lambda: service.healthy(gateway=True), processes, starts)
    write_atomic(service.server.path / "run" / "port", str(service.port).encode())
    say(f"serving federation {service.server.federation.id} at {service.server.federation.address}")
    for address in former:
        say(f"nodes that have not followed yet may try {address}, too")
    waits = {name: delays() for name in commands}
    began = dict.fromkeys(commands, time.monotonic())
    due: dict[str, float] = {}
    news, members = RunNews(service.server.runs), starts[MEMBERS]
    while True:
        time.sleep(_PAUSE)
        members = _told(processes, members, say)
        for line in news.lines():
            say(line)
        processes.trim()
        for name, command in commands.items():
            if name in due:
                if time.monotonic() >= due[name]:
                    del due[name]
                    began[name] = time.monotonic()
                    processes.start(name, command, variables)
            elif (status := processes.status(name)) is not None:
                say(f"{name} ended with status {status}, and is started again; see {processes.log(name)}")
                processes.stop(name)
                if time.monotonic() - began[name] > _STABLE:
                    waits[name] = delays()
                due[name] = time.monotonic() + next(waits[name])


@contextmanager
def new_database(server: ServerFolder) -> Iterator[None]:
    """Let the SuperLink make its database in a block, and anew where an earlier block did not come to its end.

    It cannot use one that is half made, as a Ctrl-C at the first start leaves it. Nothing is lost with that one: nodes
    are registered, and runs begun, only after the block.

    Raises:
        StorageError: a file cannot be written or removed.
    """
    mark = server.path / "run" / "database.new"
    try:
        if mark.exists():
            for suffix in ("", "-journal", "-wal", "-shm"):
                server.database.with_name(f"{server.database.name}{suffix}").unlink(missing_ok=True)
        elif not server.database.exists():
            write_atomic(mark, b"")
        yield
        mark.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {server.database} anew: {error.strerror or error}") from error


def _told(processes: Processes, start: int, say: Callable[[str], None]) -> int:
    """Say what the follower of the members printed from a place in its log on; return where what follows begins."""
    start = start if start <= processes.size(MEMBERS) else 0  # the log begins again when it has grown large
    printed = processes.printed(MEMBERS, start=start)
    whole = printed[: printed.rfind("\n") + 1]
    for line in whole.splitlines():
        if not line.startswith(_FLOWERS):
            say(line)
    return start + len(whole.encode())


def awaited(ready: Callable[[], bool], processes: Processes, starts: Mapping[str, int]) -> None:
    """Wait until programs are ready.

    Args:
        ready: whether they are.
        processes: started them.
        starts: where in the log of each begins what it prints now.

    Raises:
        RunError: one of them ended, or a minute has passed.
    """
    end = time.monotonic() + _TIMEOUT
    while not ready():
        for name, start in starts.items():
            if processes.status(name) is not None or time.monotonic() > end:
                word = _last_word(processes.printed(name, start=start))
                raise RunError(f"{name} does not start: {word}; all that it printed is in {processes.log(name)}")
        time.sleep(_PAUSE)


def _last_word(printed: str) -> str:
    """Return the line that says why a program ended: the error of a trace, or else the last one."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.match(line)]
    return short((raised or lines or ["it said nothing"])[-1], _QUOTED)


def running(server: ServerFolder) -> Service:
    """Return the service of a server that is up.

    Raises:
        SiteError: it is not.
    """
    port = server.path / "run" / "port"
    try:
        service = Service(server=server, port=int(port.read_bytes()))
    except (OSError, ValueError) as error:
        raise SiteError(f"the server is not up: run fedtrain server up {server.path}") from error
    if not service.healthy():
        raise SiteError(f"the server does not answer at {service.address}: run fedtrain server up {server.path}")
    return service


def _superlink(service: Service) -> list[str | Path]:
    server = service.server
    return [
        program("flower-superlink"),
        "--ssl-ca-certfile",
        server.ca,
        "--ssl-certfile",
        server.certificate,
        "--ssl-keyfile",
        server.certificate_key,
        "--enable-supernode-auth",
        "--host",
        "127.0.0.1",
        "--port",
        str(service.port),
        "--database",
        server.database,
        "--isolation",
        "process",
        "--superexec-auth-secret-file",
        service.secret,
        "--disable-runtime-dependency-installation",
    ]
