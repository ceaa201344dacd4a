from secrets import token_bytes

import pytest

from fedtrain.crypto import Identity
from fedtrain.health import ledgers as module
from fedtrain.health.ledgers import ledgers
from fedtrain.ledger import Ledger, SitePolicy
from fedtrain.privacy import SampledGaussian, epsilon_of
from tests.unit.health.folders import secret

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


def judged(node, policy=POLICY):
    (check,) = ledgers(node.path, policy)
    return check


def test_nothing_was_spent(node):
    assert judged(node).detail == "nothing was spent yet"
    assert not (node.path / "dataset.key").exists()


def test_a_ledger_that_holds_and_what_it_spent(spent):
    before = (spent.path / "ledgers" / f"{DATASET}.jsonl").read_bytes()
    check = judged(spent)
    assert (check.name, check.status) == (f"data set {DATASET[:12]}", "ok")
    epsilon = epsilon_of([EVENT], POLICY.delta)
    assert 0 < float(check.detail.split("epsilon ")[1].split()[0]) - epsilon < 0.01
    assert (spent.path / "ledgers" / f"{DATASET}.jsonl").read_bytes() == before


def test_a_budget_that_is_spent(spent):
    check = judged(spent, SitePolicy(epsilon=0.1, delta=1e-4))
    assert check.status == "warns"
    assert "trains in no further round" in check.detail


def test_a_ledger_that_was_changed(spent):
    file = spent.path / "ledgers" / f"{DATASET}.jsonl"
    file.write_bytes(file.read_bytes().replace(b"e", b"f", 1))
    check = judged(spent)
    assert check.status == "fails"
    assert "damaged" in check.detail


def test_a_ledger_of_another_key(spent):
    spent.identity.unlink()
    Identity.load_or_create(spent.identity)
    assert judged(spent).status == "fails"


def test_a_ledger_that_a_run_is_writing(spent, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    with opened(spent):
        check = judged(spent)
    assert check.status == "warns"
    assert "a run is writing" in check.detail


def test_a_lost_key_of_the_data_sets(spent):
    (spent.path / "dataset.key").unlink()
    check = judged(spent)
    assert check.status == "fails"
    assert "put it back from a copy" in check.detail


@pytest.mark.parametrize("file", ["dataset.key", "identity.pem"])
def test_a_key_that_others_can_read(spent, file):
    (spent.path / file).chmod(0o644)
    check = judged(spent)
    assert check.status == "fails"
    assert "not verified" in check.detail


def test_a_ledger_that_cannot_be_locked(spent):
    (spent.path / "ledgers" / f"{DATASET}.lock").unlink(missing_ok=True)
    (spent.path / "ledgers" / f"{DATASET}.lock").mkdir()
    check = judged(spent)
    assert check.status == "fails"
    assert "cannot lock" in check.detail
