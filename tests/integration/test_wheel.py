"""The built wheel, installed outside of the checkout.

The environments have other people's packages from this one, by a path or by links, so that nothing is downloaded; what
is imported as fedtrain is the wheel alone.
"""

import csv
import json
import os
import re
import subprocess
import sys
import sysconfig
from hashlib import sha256
from importlib.metadata import distribution, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fedtrain.flower.app import build_bundle, own_app
from fedtrain.serverapp.reporting import software_digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore:GitWildMatchPattern")]

ROOT = Path(__file__).parents[2]
LIST = ROOT / "docs" / "how-to" / "auditor-requirements.txt"
PROBE = """
import importlib.util, json, pathlib, sys, fedtrain
places = {name: bool(importlib.util.find_spec(name)) for name in sys.argv[1:]}
print(json.dumps({"file": fedtrain.__file__, "version": fedtrain.__version__, "found": places}))
"""


class Environment:
    """A virtual environment without pip, and a way to run its programs in some folder."""

    def __init__(self, path):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
        self.bin = path / "bin"
        (self.site,) = path.glob("lib/python*/site-packages")

    def install(self, wheel, *options):
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.bin / "python")
        subprocess.run([*pip, "install", "--quiet", "--no-index", *options, wheel], check=True, env=outside())

    def run(self, program, *arguments, cwd):
        return subprocess.run(
            [self.bin / program, *map(str, arguments)],
            cwd=cwd,
            env=outside(),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def probe(self, *modules, cwd):
        return json.loads(self.run("python", "-c", PROBE, *modules, cwd=cwd).stdout)


def outside():
    """Return the environment of a process that knows nothing of the checkout."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True
    )
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel where all other packages are found by a path. Pip looks whether they satisfy its metadata."""
    environment = Environment(tmp_path_factory.mktemp("installed") / "venv")
    # Of a folder on a path, files that name further folders are not read: an editable fedtrain is not found.
    (environment.site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment.install(wheel)
    return environment


@pytest.fixture(scope="module")
def first(installed, tmp_path_factory):
    """Run the demo in an empty folder, as the first thing that a person does."""
    folder = tmp_path_factory.mktemp("empty")
    done = installed.run("fedtrain", "simulate", "--out", "runs/first", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def report(folder, name):
    return json.loads((folder / "runs" / name / "report.json").read_bytes())


def test_what_is_imported_is_the_wheel(installed, tmp_path):
    found = installed.probe("server", "clients", "torch", cwd=tmp_path)
    assert Path(found["file"]) == installed.site / "fedtrain" / "__init__.py"
    assert found["version"] == version("fedtrain")
    assert found["found"] == {"server": False, "clients": False, "torch": True}
    assert (installed.site / "fedtrain" / "py.typed").is_file()


def test_the_demo_runs_in_an_empty_folder(first):
    assert sorted(path.name for path in first.iterdir()) == ["runs"]
    done = report(first, "first")
    assert (done["status"], done["rounds"], done["name"]) == ("completed", 30, "demo")
    assert done["evaluation"]["final"]["accuracy"] > 0.85


def test_the_report_names_the_code_of_the_wheel_which_is_that_of_the_checkout(first):
    software_digests.cache_clear()
    assert report(first, "first")["software_digests"]["fedtrain"] == software_digests()["fedtrain"]


def test_an_experiment_and_a_task_of_ones_own_run_beside_each_other(installed, tmp_path):
    (tmp_path / "my.toml").write_text(
        'name = "mine"\n[federation]\nclients = 3\ncohort = 3\nrounds = 1\n[task]\nname = "own_task:build"\n'
    )
    (tmp_path / "own_task.py").write_text((ROOT / "docs" / "examples" / "own_task.py").read_text())
    done = installed.run("fedtrain", "simulate", "-c", "my.toml", "--out", "runs/mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert report(tmp_path, "mine")["name"] == "mine"


def test_a_researcher_goes_from_pip_install_to_a_prediction_for_a_new_row(installed, tmp_path):
    """The researcher's walk, in a folder without a checkout: each step is one command of the page of that name."""

    def walk(*arguments, cwd, status=0):
        done = installed.run("fedtrain", *arguments, cwd=cwd)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    assert "fedtrain simulate -c experiment.toml" in walk("new", "patients", "--task", "table", cwd=tmp_path)
    app = tmp_path / "patients"
    wrong = walk("config", "check", "experiment.toml", "--set", "privacy.epsilom=4", cwd=app, status=2)
    assert "did you mean privacy.epsilon?" in wrong
    rounds = ("--set", "federation.rounds=4")
    checked = json.loads(walk("config", "check", "experiment.toml", *rounds, "--plan", "--json", cwd=app))
    assert (checked["valid"], checked["missing"]) == (True, [])
    trained = walk("simulate", "-c", "experiment.toml", *rounds, "--out", "runs/first", "--json", cwd=app)
    found = json.loads(trained)
    assert (found["exit_status"], found["status"], found["rounds"]) == (0, "completed", 4)
    assert found["epsilon"] == pytest.approx(checked["plan"]["epsilon"])
    assert found["metrics"]["accuracy"] > found["baseline"]["accuracy"]
    watched = json.loads(walk("watch", "runs/first", "--json", cwd=app))
    assert (watched["state"], watched["done"]) == ("completed", 4)
    # Whoever has the run folder and the public schema file needs neither the records nor the configuration.
    (app / "patients.csv").unlink()
    (app / "experiment.toml").unlink()
    new = "sugar,age,pressure,smoker,ward,admitted\n170,85,180,yes,heart,2025-03-01\n"
    (app / "new.csv").write_text(new)
    (row,) = csv.DictReader(walk("predict", "runs/first", "--data", "new.csv", "--quiet", cwd=app).splitlines())
    assert (row["record"], row["predicted"]) == ("0", "yes")
    assert float(row["p(yes)"]) + float(row["p(no)"]) == pytest.approx(1)


def test_the_report_is_audited_where_it_was_made(installed, first):
    done = installed.run(
        "fedtrain", "audit", "runs/first/report.json", "--roster", "runs/first/roster.json", "--json", cwd=first
    )
    # Of a simulation: its noise is seeded.
    assert done.returncode == 4, done.stdout + done.stderr
    status = {check["name"]: check["status"] for check in json.loads(done.stdout)["checks"]}
    assert (status["epsilon"], status["epsilon, second opinion"], status["accountants"]) == ("holds", "holds", "holds")


def test_a_wheel_and_a_checkout_make_the_same_bundle(installed, tmp_path):
    done = installed.run("fedtrain", "server", "bundle", "--out", "app.fab", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = build_bundle(own_app())
    assert (tmp_path / "app.fab").read_bytes() == data
    assert sha256(data).hexdigest() in done.stdout


def test_a_federation_is_provisioned_in_an_empty_folder(installed, tmp_path):
    for arguments in (
        ("provision", "init", "federation", "--address", "fl.example.org:9443"),
        ("provision", "add", "federation", "hospital-a"),
        ("client", "init", "federation/kits/hospital-a"),
    ):
        done = installed.run("fedtrain", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def pinned():
    """Return the versions of the auditor's list, by package."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", LIST.read_text(), flags=re.MULTILINE))


def closed(names):
    """Return packages with all that they require, extras left out."""
    found, left = set(), {canonicalize_name(name) for name in names}
    while left:
        name = left.pop()
        found.add(name)
        needed = [Requirement(text) for text in requires(name) or ()]
        left |= {
            canonicalize_name(one.name) for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})
        } - found
    return found


@pytest.fixture(scope="module")
def auditor(wheel, tmp_path_factory):
    """Install the wheel beside nothing but the packages of the auditor's list."""
    environment = Environment(tmp_path_factory.mktemp("auditor") / "venv")
    for name in pinned():
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in {"..", "__pycache__"}}:
            if not (environment.site / top).exists():
                (environment.site / top).symlink_to(package.locate_file(top))
    environment.install(wheel, "--no-deps")
    return environment


def test_the_list_of_the_auditor_is_whole_and_pins_what_is_tested():
    ours = {"cryptography", "dp-accounting", "filelock", "jinja2", "markupsafe", "pydantic", "rfc8785", "rich", "typer"}
    assert closed(ours) == pinned().keys()
    everything = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    tested = {canonicalize_name(name): found for name, found in everything.items()}
    assert {name: tested[name] for name in pinned()} == pinned()


def test_an_auditor_without_torch_checks_all_but_the_second_opinion(auditor, first, tmp_path):
    heavy = ("torch", "opacus", "flwr", "matplotlib", "datasets", "pyarrow")
    assert auditor.probe(*heavy, cwd=tmp_path)["found"] == dict.fromkeys(heavy, False)
    run = first / "runs" / "first"
    for name in ("report.json", "roster.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    arguments = ("audit", "report.json", "--roster", "roster.json")
    done = auditor.run("fedtrain", *arguments, "--html", "audit.html", "--json", cwd=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    for name in ("epsilon, second opinion", "accountants"):
        assert checks[name]["status"] == "not proven"
        assert "the second opinion is not available here: opacus is not installed" in checks[name]["detail"]
    for name in ("pinned keys", "epsilon", "epsilon, ceiling", "delta", "budget"):
        assert checks[name]["status"] == "holds"
    assert "not available here" in (tmp_path / "audit.html").read_text()


def test_an_auditor_without_torch_refutes_a_forged_report(auditor, first, tmp_path):
    forged = report(first, "first")
    forged["privacy"]["clients"][0]["epsilon"] /= 2
    (tmp_path / "report.json").write_text(json.dumps(forged))
    done = auditor.run(
        "fedtrain", "audit", "report.json", "--roster", first / "runs" / "first" / "roster.json", cwd=tmp_path
    )
    assert done.returncode == 1, done.stdout
    assert "refuted" in done.stdout
