import io
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256

import pytest

from fedtrain.errors import AppError, SiteError, StorageError
from fedtrain.machines import bundles as module
from fedtrain.machines.bundles import Bundle, approve_bundle, approved, is_approved, kept, withdraw
from tests.killing import killed_after

PROJECT = b'[project]\nname = "app"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "north"\n'
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))


def packed(*files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (("pyproject.toml", PROJECT), *files):
            archive.writestr(name, content)
    return buffer.getvalue()


FIRST, SECOND = packed(("client.py", b"1")), packed(("client.py", b"2"), ("weights.bin", b""), ("LICENSE", b""))


def test_a_bundle_is_what_its_bytes_are():
    bundle = Bundle.read(SECOND)
    assert (bundle.sha256, bundle.data) == (sha256(SECOND).hexdigest(), SECOND)
    assert bundle.name == "north/app 1.0.0"
    assert bundle.files == {"pyproject.toml": PROJECT, "client.py": b"2", "weights.bin": b"", "LICENSE": b""}
    assert bundle.unusual == ("weights.bin",)


@pytest.mark.parametrize("limit", ["_LARGEST", "_LARGEST_CONTENT"])
def test_a_bundle_that_is_too_large_is_refused(monkeypatch, limit):
    data = packed(("client.py", bytes(100_000)))
    Bundle.read(data)
    monkeypatch.setattr(module, limit, len(data) - 1)
    with pytest.raises(AppError, match=r"bytes"):
        Bundle.read(data)


def test_a_list_that_is_not_there_allows_nothing(tmp_path):
    path = tmp_path / "approved.json"
    assert approved(path) == ()
    assert not is_approved(path, FIRST)
    assert kept(path) is None


def test_bundles_are_allowed_by_their_bytes(tmp_path):
    path = tmp_path / "approved.json"
    approve_bundle(path, Bundle.read(FIRST), now=NOW)
    assert is_approved(path, FIRST)
    assert not is_approved(path, SECOND)
    assert not is_approved(path, FIRST + b"\0")
    approve_bundle(path, Bundle.read(SECOND), now=NOW)
    approve_bundle(path, Bundle.read(FIRST), now=NOW)
    assert [one.sha256 for one in approved(path)] == [sha256(data).hexdigest() for data in (SECOND, FIRST)]
    assert approved(path)[0].when == "2026-01-02T02:04:05+00:00"
    assert kept(path) == Bundle.read(FIRST)


def test_a_bundle_that_is_withdrawn_is_not_allowed(tmp_path):
    path = tmp_path / "approved.json"
    for data in (FIRST, SECOND):
        approve_bundle(path, Bundle.read(data), now=datetime.now(UTC))
    for digest in ("", "x", "0" * 65):
        with pytest.raises(SiteError, match="approved bundles have a SHA-256 that begins with"):
            withdraw(path, digest)
    assert withdraw(path, sha256(FIRST).hexdigest()[:12]).name == "north/app 1.0.0"
    assert not is_approved(path, FIRST)
    assert is_approved(path, SECOND)


def test_a_copy_that_is_gone_or_damaged_is_not_taken_for_one(tmp_path):
    path = tmp_path / "approved.json"
    approve_bundle(path, Bundle.read(FIRST), now=NOW)
    (copy,) = (tmp_path / "bundles").iterdir()
    for damaged in (b"damaged", SECOND):
        copy.write_bytes(damaged)
        assert kept(path) is None
    copy.unlink()
    assert kept(path) is None


def test_a_bundle_that_is_taken_no_more_is_not_compared_with(tmp_path):
    path, data = tmp_path / "approved.json", b"what an earlier version took"
    first = Bundle.read(FIRST)
    approve_bundle(path, replace(first, sha256=sha256(data).hexdigest(), data=data), now=NOW)
    assert is_approved(path, data)
    assert kept(path, like=first) is None


def test_a_place_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "bundles").write_text("")
    with pytest.raises(StorageError, match=r"cannot make .*bundles"):
        approve_bundle(tmp_path / "approved.json", Bundle.read(FIRST), now=NOW)


def test_killed_at_any_step_a_bundle_is_allowed_or_not(tmp_path):
    step = 0
    while True:
        path = tmp_path / f"{step}" / "approved.json"
        path.parent.mkdir()
        approve_bundle(path, Bundle.read(FIRST), now=NOW)
        with killed_after(step, tmp_path) as killed:
            approve_bundle(path, Bundle.read(SECOND), now=NOW)
        assert is_approved(path, FIRST)
        assert kept(path).data == (SECOND if is_approved(path, SECOND) else FIRST)
        approve_bundle(path, Bundle.read(SECOND), now=NOW)
        assert is_approved(path, SECOND)
        if not killed:
            break
        step += 1
    assert step > 3


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"schema": "fedtrain.approved/2", "bundles": []},
        {"schema": "fedtrain.approved/1"},
        {"schema": "fedtrain.approved/1", "bundles": [{"sha256": "0" * 64}]},
        {"schema": "fedtrain.approved/1", "bundles": 1},
    ],
)
def test_a_damaged_list_is_refused_and_kept(tmp_path, value):
    path = tmp_path / "approved.json"
    path.write_text(json.dumps(value))
    for use in (approved, kept, lambda path: is_approved(path, FIRST), lambda path: withdraw(path, "")):
        with pytest.raises(SiteError, match="cannot be used"):
            use(path)
    with pytest.raises(SiteError):
        approve_bundle(path, Bundle.read(FIRST), now=NOW)
    assert json.loads(path.read_text()) == value
