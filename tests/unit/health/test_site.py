from datetime import UTC, datetime

import numpy as np
import pytest

from fedtrain.health.site import site
from fedtrain.machines.bundles import Bundle, approve_bundle
from tests.unit.health import folders

DATA = '[data]\nsource = "npz"\npath = "records.npz"\nclasses = "0, 1, 2"\n'


@pytest.fixture
def filled(node):
    """Return a node's folder with 40 images of three classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 3
    np.savez(node.path / "records.npz", x=generator.integers(256, size=(40, 1, 8, 8), dtype=np.uint8), y=labels)
    node.site.write_text(folders.SITE + DATA)
    bundle = Bundle(sha256="ab" * 32, name="our.app", files={}, data=b"bundle")
    approve_bundle(node.approved, bundle, now=datetime(2026, 7, 1, tzinfo=UTC))
    return node


def judged(node):
    return {check.name: check for check in site(node)}


def files(node):
    return {
        path.relative_to(node.path): path.read_bytes()
        for path in node.path.rglob("*")
        if path.is_file() and "cache" not in path.parts
    }


def test_a_site_in_order_and_nothing_is_charged(filled):
    before = files(filled)
    found = judged(filled)
    assert {name: check.status for name, check in found.items()} == dict.fromkeys(
        ("site file", "bundles", "ledgers", "data", "train vision"), "ok"
    )
    assert found["bundles"].detail == f"approved: our.app ({'ab' * 6})"
    assert "40 records of kind image" in found["data"].detail
    assert "3 classes" in found["data"].detail
    assert files(filled) == before


def test_a_site_file_that_cannot_be_used(filled):
    filled.site.write_text("[budget]\nepsilon = 0\n")
    (check,) = site(filled)
    assert (check.name, check.status) == ("site file", "fails")


def test_a_site_file_without_data(filled):
    filled.site.write_text(folders.SITE)
    found = judged(filled)
    assert found["data"].status == "fails"
    assert "train vision" not in found


def test_no_bundle_is_approved(filled):
    filled.approved.unlink()
    check = judged(filled)["bundles"]
    assert check.status == "warns"
    assert "every run is refused" in check.detail


def test_a_list_of_bundles_that_cannot_be_read(filled):
    filled.approved.write_text("[]")
    check = judged(filled)["bundles"]
    assert check.status == "fails"
    assert "approve them anew" in check.detail


def test_records_that_are_not_there(filled):
    (filled.path / "records.npz").unlink()
    check = judged(filled)["data"]
    assert check.status == "fails"
    assert "records.npz" in check.detail


def test_a_site_that_names_no_classes(filled):
    filled.site.write_text(folders.SITE + DATA.replace('classes = "0, 1, 2"\n', ""))
    check = judged(filled)["classes"]
    assert check.status == "fails"
    assert "add classes" in check.detail


def test_a_site_that_also_trains_without_privacy(filled):
    filled.site.write_text((folders.SITE + DATA).replace('["record"]', '["record", "none"]'))
    assert judged(filled)["site file"].status == "warns"


def test_a_delta_that_allows_publishing_a_record(filled):
    filled.site.write_text((folders.SITE + DATA).replace("1e-5", "0.025"))
    check = judged(filled)["data"]
    assert check.status == "warns"
    assert "not below 1/40" in check.detail


def test_the_tasks_that_the_site_allows_are_rehearsed(filled):
    text = (folders.SITE + DATA).replace("[policy]", '[policy]\ntasks = ["tabular", "own_task:build"]')
    filled.site.write_text(text)
    found = judged(filled)
    assert "train vision" not in found
    assert found["train tabular"].status == "fails"
    assert found["train own_task:build"].status == "warns"
