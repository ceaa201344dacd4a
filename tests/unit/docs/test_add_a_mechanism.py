"""The page on adding a mechanism, at its word: a package made of its programs, and nothing of fedtrain touched."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fedtrain.privacy.mechanisms import registered
from tests.contract.test_mechanisms import CHECKS

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "how-to" / "add-a-mechanism.md"

# Compares all that fedtrain's modules and classes hold before the package is imported and after it.
UNTOUCHED = """
import importlib, pkgutil, sys
import fedtrain

def names(package):
    return [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]

for name in names(fedtrain):
    if not name.endswith("__main__"):
        importlib.import_module(name)

def held():
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("fedtrain", "server", "clients"):
            for key, value in vars(module).items():
                found[name, key] = value
                if isinstance(value, type) and value.__module__.startswith("fedtrain"):
                    found.update({(name, key, member): inside for member, inside in vars(value).items()})
    return found

before = held()
import my_mechanisms
after = held()
assert len(before) > 5000
assert before.keys() == after.keys(), before.keys() ^ after.keys()
assert [key for key in before if before[key] is not after[key]] == []
from fedtrain.privacy.mechanisms import registered
assert registered()[-1].kind == "client, local noise"
"""

REFUSED = """
from fedtrain import audit_report
from fedtrain.errors import ReportError
try:
    audit_report("runs/local", roster="runs/local/roster.json")
except ReportError as error:
    print(error)
"""

# Another mechanism of the same mode is registered in the place of the one of the report.
STRANGE = """
from client_local import ClientLocal
from fedtrain import audit_report
from fedtrain.privacy.mechanisms import register

class Other(ClientLocal):
    kind = "another"
    plan_kind = "of-another"

register(Other())
for check in audit_report("runs/local", roster="runs/local/roster.json").of("fails"):
    print(f"{check.name}: {check.detail}")
"""


def python(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of a user, with the programs of the page where the page says."""
    own, registration, row, run = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    place = tmp_path_factory.mktemp("user")
    package = place / "my_mechanisms"
    package.mkdir()
    (package / "client_local.py").write_text(own)
    (package / "__init__.py").write_text(registration)
    (place / "test_row.py").write_text(row)
    (place / "run.py").write_text(run)
    return place


@pytest.mark.slow
def test_the_registration_touches_nothing_of_fedtrain(folder):
    done = python(folder, "-c", UNTOUCHED)
    assert done.returncode == 0, done.stderr


def test_the_row_runs_the_contract_suite(folder):
    done = python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_row.py")
    assert done.returncode == 0, done.stdout
    assert re.search(rf"^{len(CHECKS)} passed", done.stdout, flags=re.MULTILINE), done.stdout


@pytest.mark.slow
def test_a_mechanism_that_breaks_the_contract_fails_in_its_row(folder, tmp_path):
    for path in folder.glob("**/*.py"):
        target = tmp_path / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text().replace("clipped, _ = clip_update(change, bound)", "clipped = change"))
    done = python(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_row.py")
    assert "check_contribution" in done.stdout
    assert re.search(rf"^1 failed, {len(CHECKS) - 1} passed", done.stdout, flags=re.MULTILINE), done.stdout


@pytest.fixture(scope="module")
def ran(folder):
    return python(folder, "run.py")


def test_a_simulation_with_it_passes_the_audit(ran):
    assert ran.returncode == 0, ran.stderr
    assert "client privacy: epsilon <= 8 at delta 0.001 for each client" in ran.stdout
    assert "Its numbers are consistent" in ran.stdout


@pytest.mark.slow
def test_the_command_audits_it_in_a_process_that_has_imported_it(ran, folder):
    (line,) = re.findall(r"^python (-c .* audit .*)$", PAGE.read_text(), flags=re.MULTILINE)
    done = python(folder, *shlex.split(line))
    assert done.returncode == 4, done.stderr  # a simulation
    assert "Its numbers are consistent" in done.stdout


def test_an_audit_refuses_a_mode_that_is_not_registered_by_name(ran, folder):
    done = python(folder, "-c", REFUSED)
    assert done.stdout == (
        "the report cannot be read: privacy.mode: No mechanism of the mode 'client-local' is registered here; allowed "
        "are 'none', 'record' or 'client'\n"
    ), done.stderr


@pytest.mark.slow
def test_an_audit_refuses_the_plan_of_a_mechanism_that_is_not_registered_by_name(ran, folder):
    known = dict.fromkeys(mechanism.plan_kind for mechanism in registered())
    done = python(folder / "my_mechanisms", "-c", STRANGE.replace("runs/local", "../runs/local"))
    assert done.stdout == (
        "first record: the plan of the first record is no plan: not a privacy plan: its kind is 'gaussian-at-client', "
        f"and {', '.join(known)}, of-another are known\n"
    ), done.stderr
