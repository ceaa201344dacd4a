"""A server that moves to another port and renews its CA, and a node that follows, by the commands of a person."""

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.integration.deployed import NEEDS_NGINX
from tests.ports import free_port

# Slow, since a SuperLink takes a minute to let a node in again that it has just lost: 2 minutes in all.
pytestmark = [pytest.mark.slow, pytest.mark.deployment, pytest.mark.timeout(900), NEEDS_NGINX]

PATIENCE = 200
CARRIED = ("directions.json", "ca.pem", "server.crt", "server.key", "membership.json")


@contextmanager
def staying(cli, log, *arguments):
    """Run a command that stays, and end it in good order."""
    command = [sys.executable, "-c", "from fedtrain.cli import main; main()", *map(str, arguments)]
    with log.open("ab") as file:
        process = subprocess.Popen(command, env=cli.environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)


def await_line(log, text, process):
    end = time.monotonic() + PATIENCE
    while not (log.exists() and text in log.read_text()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


def test_a_node_follows_its_server_to_another_address_and_another_ca(cli, tmp_path):
    def do(*arguments, status=0):
        outcome = cli.call(*arguments, cwd=tmp_path)
        assert outcome.status == status, outcome.stdout + outcome.stderr
        return outcome.stdout

    def carry():
        for name in CARRIED:
            if (operator / "server" / name).exists():
                shutil.copy2(operator / "server" / name, server / name)

    operator, server, node = tmp_path / "federation", tmp_path / "server", tmp_path / "north"
    first, second, superlink = free_port(), free_port(), free_port()
    do("provision", "init", operator, "--address", f"127.0.0.1:{first}")
    do("provision", "add", operator, "north")
    shutil.copytree(operator / "kits" / "north", node)
    do("client", "init", node)
    do("provision", "admit", operator, "north", node / "request.json")
    shutil.copytree(operator / "server", server)
    first_ca = shutil.copy2(operator / "ca.pem", tmp_path / "first.pem")
    up, said = ("server", "up", server, "--port", superlink), tmp_path / "node.log"

    # Both addresses are served, and what the operator signed, while the node knows the first alone.
    do("provision", "readdress", operator, "--address", f"localhost:{second}")
    do("provision", "renew-ca", operator)
    carry()
    with staying(cli, tmp_path / "first.log", *up) as process:
        await_line(tmp_path / "first.log", "serving federation", process)
        with staying(cli, said, "client", "up", node) as client:
            await_line(
                said, f"the operator has directed this node to localhost:{second} (directions version 2)", client
            )
            await_line(said, f"  connected to localhost:{second} as north", client)
        checks = json.loads(cli.call("doctor", server, "--json", cwd=tmp_path).stdout)["checks"]
        (served,) = [check["detail"] for check in checks if check["name"] == "directions"]
        assert f"127.0.0.1:{first} is served too" in served
    before = tmp_path / "before.json"
    shutil.copy2(node / "directions.json", before)
    assert [check["status"] for check in checks if check["name"] in {"chain", "names", "port"}] == ["ok"] * 3

    # The renewal ends. Who was away has the first address and the former CA, and needs the file.
    (node / "directions.json").unlink()
    shutil.copy2(first_ca, node / "ca.pem")
    do("provision", "renew-ca", operator, "--finish")
    carry()
    with staying(cli, tmp_path / "second.log", *up) as process:
        await_line(tmp_path / "second.log", "serving federation", process)
        away = tmp_path / "away.log"
        with staying(cli, away, "client", "up", node) as client:
            await_line(away, "wrong CA: the certificate that is shown", client)
            assert f"run: fedtrain client follow {node} directions.json" in away.read_text()
            do("client", "follow", node, operator / "directions.json")
            await_line(away, f"  connected to localhost:{second} as north", client)
    refused = cli.call("client", "follow", node, before, cwd=tmp_path)
    assert (refused.status, "has others of version 3" in refused.stderr) == (1, True)
