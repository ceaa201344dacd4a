import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.health import folders, pki

SCRIPT = Path(__file__).parents[3] / "deploy" / "healthcheck.py"


def run(folder):
    done = subprocess.run(
        [sys.executable, "-S", str(SCRIPT), str(folder)], capture_output=True, text=True, check=False, timeout=30
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def ca():
    return pki.authority()


@pytest.fixture(scope="module")
def members():
    return folders.Members.make()


def test_a_node_and_its_server_are_well(tmp_path, ca, members):
    # The name that nodes use is not routed here; a server asks itself under it.
    issued = pki.certificate_of(ca, "127.0.0.1", "fl.invalid")
    with pki.serving(tmp_path, issued) as port:
        folders.node_folder(tmp_path / "node", members, ca, address=f"127.0.0.1:{port}")
        folders.server_folder(tmp_path / "server", members, ca, issued, address=f"fl.invalid:{port}")
        assert run(tmp_path / "node") == (0, "")
        assert run(tmp_path / "server") == (0, "")


@pytest.mark.parametrize(
    ("fault", "said"),
    [("away", "refused"), ("ca", "CERTIFICATE_VERIFY_FAILED"), ("status", "status 502"), ("file", "federation.json")],
)
def test_what_is_wrong_is_said(tmp_path, ca, members, fault, said):
    status = 502 if fault == "status" else 200
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1"), status=status) as port:
        pinned = pki.authority() if fault == "ca" else ca
        node = folders.node_folder(tmp_path / "node", members, pinned, address=f"127.0.0.1:{port}")
        if fault == "file":
            (node.path / "federation.json").unlink()
        if fault != "away":
            found = run(node.path)
    if fault == "away":
        found = run(node.path)
    assert found[0] == 1
    assert found[1].startswith("not healthy: ")
    assert said in found[1]
