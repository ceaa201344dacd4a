"""A real SuperLink on loopback, with TLS and node authentication."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port, is_open
from tests.unit.health import pki

BIN = Path(sys.executable).parent
PATIENCE = 180


def wait_for(port):
    """Wait until somebody listens on a port of loopback."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        if is_open(port):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on port {port}")


class SuperLink:
    def __init__(self, folder, port, ca):
        self.ca = ca
        self.database = folder / "superlink.db"
        self.address = f"127.0.0.1:{port}"
        self.environment = {**os.environ, "FLWR_HOME": str(folder / "flwr"), "FLWR_TELEMETRY_ENABLED": "0"}
        self.environment["FLWR_DISABLE_UPDATE_CHECK"] = "1"
        (folder / "flwr").mkdir()
        (folder / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{self.address}"\n'
            f'root-certificates = "{folder / "ca.pem"}"\n'
        )

    def flwr(self, *arguments):
        command = [BIN / "flwr", *arguments, "here", "--format", "json"]
        done = subprocess.run(
            [*map(str, command)], env=self.environment, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        return json.loads(done.stdout[done.stdout.index("{") :])

    def status_of_nodes(self):
        return [node["status"] for node in self.flwr("supernode", "list")["nodes"]]


@contextmanager
def superlink(folder):
    """Run a SuperLink with its files in a folder, until the block ends."""
    ca = pki.authority("CA of the SuperLink")
    ca.write(folder / "ca.pem")
    pki.certificate_of(ca, "127.0.0.1").write(folder / "server.crt", folder / "server.key")
    link = SuperLink(folder, free_port(), ca)
    command = [BIN / "flower-superlink", "--enable-supernode-auth", "--host", "127.0.0.1"]
    command += ["--port", link.address.rpartition(":")[2], "--database", link.database, "--isolation", "process"]
    command += ["--ssl-ca-certfile", folder / "ca.pem", "--ssl-certfile", folder / "server.crt"]
    command += ["--ssl-keyfile", folder / "server.key", "--disable-runtime-dependency-installation"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*map(str, command)], env=link.environment, stdout=log, stderr=log)
    try:
        wait_for(int(link.address.rpartition(":")[2]))
        yield link
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)
