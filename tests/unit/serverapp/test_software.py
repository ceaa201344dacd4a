import importlib.util
import shutil
import sys
import types
from hashlib import sha256
from pathlib import Path

import pytest

import fedtrain
from fedtrain.errors import AppError
from fedtrain.flower.app import ENTRY_POINTS
from fedtrain.serverapp.reporting import entry_points, software_digests

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    """Forget what was digested, and which entry points were imported."""
    monkeypatch.delitem(sys.modules, "server.app", raising=False)
    software_digests.cache_clear()
    yield
    software_digests.cache_clear()


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """Import the ServerApp from a copy of the entry points, as Flower does from its unpacked bundle."""
    for name in ENTRY_POINTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    spec = importlib.util.spec_from_file_location("server.app", tmp_path / "server" / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "server.app", module)
    return tmp_path


def test_ours_is_every_file_of_the_library_and_the_two_entry_points():
    expected = sha256()
    files = [*(ROOT / "fedtrain").rglob("*.py"), *(ROOT / name for name in ENTRY_POINTS)]
    for name, file in sorted((file.relative_to(ROOT).as_posix(), file) for file in files):
        expected.update(f"{name} {file.stat().st_size}\n".encode() + file.read_bytes())
    assert software_digests()["fedtrain"] == expected.hexdigest()


def test_the_same_code_has_the_same_digest_from_an_unpacked_bundle(unpacked):
    assert entry_points() == unpacked
    ours = software_digests()["fedtrain"]
    del sys.modules["server.app"]
    software_digests.cache_clear()
    assert entry_points() == ROOT
    assert software_digests()["fedtrain"] == ours


def of_the_user(folder):
    """Return a module of another program that has the name of our entry point, in a file that is not ours."""
    module = types.ModuleType("server.app")
    module.__file__ = str(folder / "server" / "app.py")
    module.simulate = fedtrain.simulate
    return module


@pytest.mark.parametrize("other", [of_the_user, lambda _: types.ModuleType("server.app"), lambda _: object()])
def test_a_module_of_another_program_with_that_name_is_not_digested_as_ours(tmp_path, monkeypatch, other):
    expected = software_digests()
    software_digests.cache_clear()
    monkeypatch.setitem(sys.modules, "server.app", other(tmp_path))
    assert entry_points() == ROOT
    assert software_digests() == expected


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_it_is_the_imported_entry_points_that_count(unpacked, name):
    before = software_digests()["fedtrain"]
    with (unpacked / name).open("a") as file:
        file.write("# changed\n")
    software_digests.cache_clear()
    assert software_digests()["fedtrain"] != before


def test_a_wheel_has_the_digest_of_its_checkout(tmp_path, monkeypatch):
    before = software_digests()["fedtrain"]
    for file in (ROOT / "fedtrain").rglob("*.py"):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    for name in ENTRY_POINTS:
        copy = tmp_path / "fedtrain" / "app" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    monkeypatch.setattr(fedtrain, "__file__", str(tmp_path / "fedtrain" / "__init__.py"))
    software_digests.cache_clear()
    assert entry_points() == tmp_path / "fedtrain" / "app"
    assert software_digests()["fedtrain"] == before


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_a_file_that_is_missing_is_an_error(unpacked, name):
    (unpacked / name).unlink()
    with pytest.raises(AppError, match=f"cannot read .*{name}, which is a part of what runs: No such file"):
        software_digests()
