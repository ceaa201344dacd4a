from datetime import UTC, datetime
from secrets import token_bytes

import numpy as np
import pytest

from fedtrain.crypto import Identity
from fedtrain.health import node as module
from fedtrain.health import ok
from fedtrain.health.node import ledgers, node_checks, site
from fedtrain.ledger import Ledger, SitePolicy
from fedtrain.machines.bundles import Bundle, approve_bundle
from fedtrain.privacy import SampledGaussian, epsilon_of
from tests.unit.health import folders, pki
from tests.unit.health.folders import secret

BEFORE_THE_SITE = [
    "versions",
    "permissions",
    "folder",
    "CA",
    "identity",
    "SuperNode key",
    "request",
    "membership",
    "admitted",
]
ONLINE = ["DNS", "TCP", "TLS", "health", "clock"]


def statuses(node):
    """Judge all but what is this machine's, and the site's own part, which has no data here."""
    asked = []

    def ask(asking):
        asked.append(asking)
        return ok("registered", "asked")

    found = {check.name: check.status for check in node_checks(node, ask)}
    assert len(asked) == ("registered" in found)
    for name in ("disk", "site file", "bundles", "ledgers", "data"):
        found.pop(name)
    return found


def test_a_node_in_order(tmp_path, members, ca):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1")) as port:
        node = folders.node_folder(tmp_path / "node", members, ca, address=f"127.0.0.1:{port}")
        found = statuses(node)
    assert found == dict.fromkeys([*BEFORE_THE_SITE, *ONLINE, "registered"], "ok")


def test_a_node_without_a_network_is_checked_as_far_as_it_goes(tmp_path, members, ca):
    node = folders.node_folder(tmp_path / "node", members, ca, address="fl.invalid:9443")
    found = statuses(node)
    assert found == {
        **dict.fromkeys(BEFORE_THE_SITE, "ok"),
        "DNS": "fails",
        "connection": "warns",
        "directions": "warns",
    }


def test_a_kit_whose_keys_were_not_made_yet(tmp_path, members, ca):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1")) as port:
        node = folders.node_folder(tmp_path / "node", members, ca, address=f"127.0.0.1:{port}")
        node.identity.unlink()
        node.supernode_key.unlink()
        found = statuses(node)
    assert {name for name, status in found.items() if status == "fails"} == {"identity", "SuperNode key"}
    assert not {"request", "admitted", "registered"} & found.keys()


def test_a_kit_without_its_ca(tmp_path, members, ca):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1")) as port:
        node = folders.node_folder(tmp_path / "node", members, ca, address=f"127.0.0.1:{port}")
        node.ca.unlink()
        found = statuses(node)
    assert {name for name, status in found.items() if status == "fails"} == {"CA", "TLS"}


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


def site_checks(node):
    return {check.name: check for check in site(node)}


def files(node):
    return {
        path.relative_to(node.path): path.read_bytes()
        for path in node.path.rglob("*")
        if path.is_file() and "cache" not in path.parts
    }


def test_a_site_in_order_and_nothing_is_charged(filled):
    before = files(filled)
    found = site_checks(filled)
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
    found = site_checks(filled)
    assert found["data"].status == "fails"
    assert "train vision" not in found


def test_no_bundle_is_approved(filled):
    filled.approved.unlink()
    check = site_checks(filled)["bundles"]
    assert check.status == "warns"
    assert "every run is refused" in check.detail


def test_a_list_of_bundles_that_cannot_be_read(filled):
    filled.approved.write_text("[]")
    check = site_checks(filled)["bundles"]
    assert check.status == "fails"
    assert "approve them anew" in check.detail


def test_records_that_are_not_there(filled):
    (filled.path / "records.npz").unlink()
    check = site_checks(filled)["data"]
    assert check.status == "fails"
    assert "records.npz" in check.detail


def test_a_site_that_names_no_classes(filled):
    filled.site.write_text(folders.SITE + DATA.replace('classes = "0, 1, 2"\n', ""))
    check = site_checks(filled)["classes"]
    assert check.status == "fails"
    assert "add classes" in check.detail


def test_a_site_that_also_trains_without_privacy(filled):
    filled.site.write_text((folders.SITE + DATA).replace('["record"]', '["record", "none"]'))
    assert site_checks(filled)["site file"].status == "warns"


def test_a_delta_that_allows_publishing_a_record(filled):
    filled.site.write_text((folders.SITE + DATA).replace("1e-5", "0.025"))
    check = site_checks(filled)["data"]
    assert check.status == "warns"
    assert "not below 1/40" in check.detail


def test_the_tasks_that_the_site_allows_are_rehearsed(filled):
    text = (folders.SITE + DATA).replace("[policy]", '[policy]\ntasks = ["tabular", "own_task:build"]')
    filled.site.write_text(text)
    found = site_checks(filled)
    assert "train vision" not in found
    assert found["train tabular"].status == "fails"
    assert found["train own_task:build"].status == "warns"


EVENT = SampledGaussian(sampling_rate=0.1, noise_multiplier=2.0, steps=5)
DATASET = "12" * 32
POLICY = SitePolicy(epsilon=1.0, delta=1e-4)


@pytest.fixture
def spent(node):
    """Return the folder of a node with one data set, of which one round was charged."""
    secret(node.path / "dataset.key", token_bytes(32))
    with opened(node) as ledger:
        ledger.reserve(
            run="run",
            round_number=1,
            plan="a" * 64,
            model="b" * 64,
            event=EVENT,
            repeatable=False,
            unit="record",
            noise="secure",
        )
    return node


def opened(node):
    return Ledger.open(node.path / "ledgers", dataset=DATASET, identity=Identity.load(node.identity))


def ledger_checks(node, policy=POLICY):
    (check,) = ledgers(node.path, policy)
    return check


def test_nothing_was_spent(node):
    assert ledger_checks(node).detail == "nothing was spent yet"
    assert not (node.path / "dataset.key").exists()


def test_a_ledger_that_holds_and_what_it_spent(spent):
    before = (spent.path / "ledgers" / f"{DATASET}.jsonl").read_bytes()
    check = ledger_checks(spent)
    assert (check.name, check.status) == (f"data set {DATASET[:12]}", "ok")
    epsilon = epsilon_of([EVENT], POLICY.delta)
    assert 0 < float(check.detail.split("epsilon ")[1].split()[0]) - epsilon < 0.01
    assert (spent.path / "ledgers" / f"{DATASET}.jsonl").read_bytes() == before


def test_a_budget_that_is_spent(spent):
    check = ledger_checks(spent, SitePolicy(epsilon=0.1, delta=1e-4))
    assert check.status == "warns"
    assert "trains in no further round" in check.detail


def test_a_ledger_that_was_changed(spent):
    file = spent.path / "ledgers" / f"{DATASET}.jsonl"
    file.write_bytes(file.read_bytes().replace(b"e", b"f", 1))
    check = ledger_checks(spent)
    assert check.status == "fails"
    assert "damaged" in check.detail


def test_a_ledger_of_another_key(spent):
    spent.identity.unlink()
    Identity.load_or_create(spent.identity)
    assert ledger_checks(spent).status == "fails"


def test_a_ledger_that_a_run_is_writing(spent, monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT", 0.1)
    with opened(spent):
        check = ledger_checks(spent)
    assert check.status == "warns"
    assert "a run is writing" in check.detail


def test_a_lost_key_of_the_data_sets(spent):
    (spent.path / "dataset.key").unlink()
    check = ledger_checks(spent)
    assert check.status == "fails"
    assert "put it back from a copy" in check.detail


@pytest.mark.parametrize("file", ["dataset.key", "identity.pem"])
def test_a_key_that_others_can_read(spent, file):
    (spent.path / file).chmod(0o644)
    check = ledger_checks(spent)
    assert check.status == "fails"
    assert "not verified" in check.detail


def test_a_ledger_that_cannot_be_locked(spent):
    (spent.path / "ledgers" / f"{DATASET}.lock").unlink(missing_ok=True)
    (spent.path / "ledgers" / f"{DATASET}.lock").mkdir()
    check = ledger_checks(spent)
    assert check.status == "fails"
    assert "cannot lock" in check.detail
