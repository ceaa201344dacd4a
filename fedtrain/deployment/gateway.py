"""nginx before the SuperLink: TLS 1.3, and nothing but what nodes ask for.

Flower's SuperLink serves nodes and operators at one port, and lets anyone who reaches it register nodes and run code.
It listens on this machine's loopback alone; requests from outside pass here.
"""

import errno
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

from fedtrain.errors import RunError, SiteError
from fedtrain.files import write_atomic
from fedtrain.health.directions import PATH
from fedtrain.machines.federation import Federation
from fedtrain.machines.folders import ServerFolder

# The requests of Flower's Fleet API are all of this form. What is encoded, doubled or has a query is something else.
# The SuperLink closes idle connections after five seconds; the gateway does so before, or a request would now and then
# meet a closed one.
_CONFIGURATION = """\
daemon off;
pid "{temporary}/nginx.pid";
error_log stderr error;
worker_processes 2;
{user}
events {{ worker_connections 2048; }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path "{temporary}/body";
    proxy_temp_path "{temporary}/proxy";
    fastcgi_temp_path "{temporary}/fastcgi";
    uwsgi_temp_path "{temporary}/uwsgi";
    scgi_temp_path "{temporary}/scgi";
    client_max_body_size 64m;
    client_body_timeout 60s;
    client_header_timeout 20s;
    limit_conn_zone $binary_remote_addr zone=address:1m;
    limit_conn_log_level info;
    server {{
        {listen}
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        ssl_session_tickets off;
        limit_conn address 128;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_read_timeout 120s;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_trusted_certificate {ca};
        proxy_ssl_verify on;
        proxy_ssl_name localhost;
        location = /health {{
            if ($request_method !~ "^(GET|HEAD)$") {{ return 405; }}
            proxy_pass https://superlink/health;
        }}
{directions}
        location ~ ^/v1/fleet/ {{
            if ($request_uri !~ "^/v1/fleet/[a-z-]+$") {{ return 404; }}
            if ($request_method != POST) {{ return 405; }}
            proxy_pass https://superlink;
        }}
        location / {{ return 404; }}
    }}
    upstream superlink {{
        server 127.0.0.1:{superlink};
        keepalive 16;
        keepalive_timeout 3s;
    }}
}}
"""
# It is signed by the operator, and for anybody to read.
_DIRECTIONS = """\
        location = {path} {{
            if ($request_method !~ "^(GET|HEAD)$") {{ return 405; }}
            default_type application/json;
            alias "{file}";
        }}"""


def find_nginx() -> Path:
    """Return where nginx is.

    Raises:
        RunError: it is not installed.
    """
    # Debian has it where only root's path leads.
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RunError(
            "there is no nginx on this machine, which lets nodes in; install it: apt-get install nginx-light"
        )
    return Path(found)


def own_addresses(federation: Federation) -> tuple[str, ...]:
    """Return the addresses of this machine that the gateway listens at; none if those are all that it has.

    They are those that the federation's address stands for, and loopback. Where it stands for none of this machine, as
    behind a router or in a container, or only for loopback under another name, as Debian writes it for a machine's own,
    the gateway listens at all.
    """
    host, found = federation.host, list[str]()
    with suppress(OSError, UnicodeError):
        for entry in socket.getaddrinfo(host, federation.port, type=socket.SOCK_STREAM):
            address = str(entry[4][0])
            if address not in found and _bound(address, 0) is None:
                found.append(address)
    if not found or (all(map(_loopback, found)) and host != "localhost" and host not in found):
        return ()
    return tuple(dict.fromkeys([*found, "127.0.0.1"]))


def places(federation: Federation, now: datetime) -> dict[int, tuple[str, ...]]:
    """Return where the gateway listens: for each port the addresses of this machine, none for all of them.

    A former address of the server is served too while nodes may try it, if it is still one of this machine.

    Args:
        federation: says where nodes reach the server.
        now: the time, with its zone.
    """
    newest, *former = federation.routes(now)
    everywhere = not (own := own_addresses(newest))
    found = {newest.port: own}
    for route in former:
        addresses = own_addresses(route)
        if addresses or everywhere:  # behind a router no address is known to be this machine's, or not to be
            known = found.setdefault(route.port, addresses)
            found[route.port] = tuple(dict.fromkeys([*known, *addresses])) if known and addresses else ()
    return found


def free_places(federation: Federation, now: datetime, say: Callable[[str], None]) -> dict[int, tuple[str, ...]]:
    """Return `places` without the ports of former addresses that other programs have by now, and say which those are.

    Args:
        federation: says where nodes reach the server.
        now: the time, with its zone.
        say: tells a person.

    Raises:
        RunError: the port of the newest address is taken, or this user may not have it.
    """
    found = places(federation, now)
    for port, addresses in tuple(found.items()):
        try:
            refuse_taken_port(addresses, port, what="where nodes reach this server")
        except RunError as error:
            if port == federation.port:
                raise
            del found[port]
            say(f"the former address is not served, and nodes that have not followed find nobody there: {error}")
    return found


def refuse_taken_port(addresses: Sequence[str], port: int, *, what: str) -> None:
    """Refuse to start where another program listens at a port already.

    Args:
        addresses: of this machine; none for all.
        port: the port.
        what: what it is for.

    Raises:
        RunError: it is taken, or this user may not have it.
    """
    for address in addresses or (("0.0.0.0", "::") if _has_version_six() else ("0.0.0.0",)):  # noqa: S104 - as nginx will
        problem = _bound(address, port)
        if problem is None or problem.errno == errno.EADDRNOTAVAIL:
            continue
        if problem.errno == errno.EADDRINUSE:
            raise RunError(
                f"port {port} is in use by another program, and it is {what}: stop that program "
                f"(`ss -ltnp 'sport = :{port}'` names it), or choose another port"
            )
        raise RunError(
            f"port {port}, {what}, cannot be used: {problem.strerror or problem}; a port below 1024 takes root, or the "
            "right to bind it"
        )


def _bound(address: str, port: int) -> OSError | None:
    """Return why a port of this machine cannot be listened at; ``None`` if it can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with closing(socket.socket(family, socket.SOCK_STREAM)) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as nginx does
            if family == socket.AF_INET6:
                tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tried.bind((address, port))
            tried.listen()
    except OSError as error:
        return error
    return None


def _loopback(address: str) -> bool:
    return ip_address(address.partition("%")[0]).is_loopback


def _has_version_six() -> bool:
    return Path("/proc/net/if_inet6").exists()


def _listen(addresses: Sequence[str], port: int) -> str:
    if not addresses:
        named = [str(port), *([f"[::]:{port}"] if _has_version_six() else [])]
    else:
        named = [f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address in addresses]
    return " ".join(f"listen {place} ssl;" for place in named)


def write_configuration(
    path: Path,
    server: ServerFolder,
    *,
    superlink: int,
    temporary: Path,
    root: bool,
    listens: Mapping[int, Sequence[str]] | None = None,
) -> None:
    """Write what nginx is to do.

    Args:
        path: the file.
        server: the server's folder.
        superlink: the SuperLink's port on loopback.
        temporary: a folder for nginx alone, that its worker processes can enter.
        root: whether it is started by root; its worker processes then run as nobody.
        listens: where it listens: for each port the addresses of this machine, none for all; by default at all, at the
            port of the federation's address.

    Raises:
        SiteError: nginx cannot read the path of the server's folder.
        StorageError: it cannot be written.
    """
    directions = ""
    if server.directions.exists():
        # The workers of a gateway of root cannot enter the server's folder.
        copy = temporary / "directions.json"
        write_atomic(copy, server.directions.read_bytes(), durable=False)
        copy.chmod(0o644)
        directions = _DIRECTIONS.format(path=PATH, file=copy)
    text = _CONFIGURATION.format(
        temporary=temporary,
        listen=" ".join(
            _listen(addresses, port) for port, addresses in (listens or {server.federation.port: ()}).items()
        ),
        directions=directions,
        certificate=_quoted(server.certificate),
        key=_quoted(server.certificate_key),
        ca=_quoted(server.ca),
        superlink=superlink,
        user="user nobody nogroup;" if root else "",
    )
    write_atomic(path, text.encode())


def _quoted(path: Path) -> str:
    text = str(path)
    # nginx takes what follows a dollar for a variable's name, and has no way to write one.
    if "$" in text or not text.isprintable():
        raise SiteError(f"nginx cannot read files in {path.parent}: move the folder to a path of plain characters")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
