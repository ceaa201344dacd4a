"""Do what a page of the documentation says, each command on the host that its prompt names.

``python -m deploy.story docs/tutorial/deploy.md FOLDER`` runs the page in network namespaces where that is permitted.
"""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from deploy.hosts import Hosts, namespaces_allowed

ROOT = Path(__file__).resolve().parents[1]
SERVER = "server"
HOSTS = ("operator", SERVER, "hospital-a", "hospital-b", "hospital-c", "auditor")
# What a page uses of the repository.
_TAKEN = ("simulations", "docs", "benchmarks")
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"([a-z-]+)\$ (.*)")
# What the commands that stay say when they are ready.
_READY = {"fedtrain server up": "serving federation", "fedtrain client up": "  connected to"}  # not "not connected to"


def commands(page: str) -> Iterator[tuple[str, str]]:
    """Yield the host and the line of each command of a page."""
    for block in _BLOCK.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            if found := _COMMAND.fullmatch(line.strip()):
                yield found[1], " ".join(found[2].split())


def do(hosts: Hosts, host: str, line: str) -> str:
    """Do a command, and return what it prints.

    Raises:
        RuntimeError: it fails.
    """
    ready = next((says for start, says in _READY.items() if line.startswith(start)), None)
    if ready is not None:
        hosts.stay(host, line, ready)
        return hosts.log(host, line).read_text()
    words = shlex.split(line)
    if words[0] == "scp":
        *sources, target = [word for word in words[1:] if word != "-r"]
        hosts.copy(host, sources, target)
        return ""
    process = hosts.run(host, line)
    if process.returncode != 0:
        raise RuntimeError(f"{host}$ {line}\nends with status {process.returncode}:\n{process.stdout}")
    return process.stdout


def prepare(hosts: Hosts) -> None:
    """Give each host what the page takes for granted: a copy of what it uses of this repository, as it is now."""
    copy = hosts.folder / "repository"
    for name in _TAKEN:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for host in hosts.names:
        (hosts.home(host) / "fedtrain").symlink_to(copy)


def main() -> None:
    """Run a page."""
    page, folder = Path(sys.argv[1]).read_text(encoding="utf-8"), Path(sys.argv[2]).resolve()
    namespaces = namespaces_allowed()
    where = (
        "network namespaces of their own" if namespaces else "folders on loopback: namespaces are not permitted here"
    )
    print(f"hosts: {', '.join(HOSTS)}, in {where}\n")
    with Hosts(folder, HOSTS, server=SERVER, namespaces=namespaces) as hosts:
        prepare(hosts)
        for host, line in commands(page):
            print(f"{host}$ {line}", flush=True)
            print(do(hosts, host, line), flush=True)


if __name__ == "__main__":
    main()
