"""Whether the SuperLink of a server is within reach of this machine alone, and its database is in order."""

import os
import re
import sqlite3
import stat
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from fedtrain.health.check import Check, fails, ok, warns

_LISTENS = "0A"  # TCP_LISTEN of the kernel's include/net/tcp_states.h
_SOCKET = re.compile(r"socket:\[(\d+)\]")


def loopback_only(database: Path) -> Check:
    """Judge where the SuperLink that uses this database listens, by what the kernel says (Linux).

    Args:
        database: by which the SuperLink of this server is told from others.
    """
    found = [process for process in _processes() if _is_superlink(process, database)]
    if not found:
        return ok("SuperLink", "it is not running here")
    sockets = {inode for process in found for inode in _sockets(process)}
    tables = "".join(_text(Path("/proc/net") / name) for name in ("tcp", "tcp6"))
    return listening([address for address, inode in listeners(tables) if inode in sockets])


def listening(addresses: list[tuple[IPv4Address | IPv6Address, int]]) -> Check:
    """Judge the addresses and ports that the SuperLink listens at."""
    if not addresses:
        return warns("SuperLink", "it runs, and where it listens cannot be seen; run this as the same user")
    if outside := [f"{address}:{port}" for address, port in addresses if not _loopback(address)]:
        return fails(
            "SuperLink",
            f"it listens at {', '.join(outside)}, so that other machines reach its Control API, which has no "
            "authentication; stop it, and start it with fedtrain server up alone",
        )
    return ok("SuperLink", f"it listens at {', '.join(f'{address}:{port}' for address, port in addresses)} alone")


def listeners(table: str) -> list[tuple[tuple[IPv4Address | IPv6Address, int], int]]:
    """Return address, port and inode of each listening socket in the text of ``/proc/net/tcp`` or ``tcp6``."""
    found = []
    for line in table.splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENS:  # noqa: PLR2004 - the tenth is the inode
            address, port = fields[1].split(":")
            found.append(((_address(address), int(port, 16)), int(fields[9])))
    return found


def database(path: Path) -> Check:
    """Judge the SuperLink's database, which holds all messages of its runs."""
    if not path.exists():
        return ok("database", f"{path.name} will be made at the first start")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077 and path.parent.stat().st_mode & 0o055:
        return fails("database", f"others can use {path} (mode {mode:04o}); run: chmod 600 {path}")
    if not os.access(path, os.W_OK):
        return fails("database", f"{path} cannot be written; let it belong to the user who runs the server")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        return fails("database", f"{path} cannot be read: {error}; restore it, or move it away (its runs are lost)")
    return ok("database", f"{path.name}, {path.stat().st_size / 1024**2:.0f} MiB, can be written")


def _processes() -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*") if path.name.isdigit()]


def _is_superlink(process: Path, database_file: Path) -> bool:
    arguments = _text(process / "cmdline").split("\0")
    return any("flower-superlink" in argument for argument in arguments) and str(database_file) in arguments


def _sockets(process: Path) -> set[int]:
    found = set()
    try:
        for link in (process / "fd").iterdir():
            if match := _SOCKET.fullmatch(str(link.readlink())):
                found.add(int(match[1]))
    except OSError:  # it ended, or belongs to somebody else
        return found
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # a process that ended
        return ""


def _address(text: str) -> IPv4Address | IPv6Address:
    # Words of 32 bits in the byte order of the machine, which is little-endian wherever this runs.
    packed = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)  # noqa: PLR2004 - bytes of IPv4


def _loopback(address: IPv4Address | IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
