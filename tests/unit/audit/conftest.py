import json

import pytest

from fedtrain.audit import audit, read_report
from tests.unit.audit.world import World, client_world, record_world


@pytest.fixture(scope="session")
def world() -> World:
    """Give a federation in record privacy, with secure noise."""
    return record_world()


@pytest.fixture(scope="session")
def honest(world):
    """Give its report, to be copied before it is changed."""
    return world.report()


@pytest.fixture(scope="session")
def secret_world() -> World:
    """Give a federation in client privacy with secret cohorts."""
    return client_world()


@pytest.fixture(scope="session")
def judge():
    """Give a function that audits plain data, as bytes, and returns the verdict and its checks by name."""

    def judged(plain, roster, ledgers=None):
        verdict = audit(read_report(json.dumps(plain).encode()), roster=roster, ledgers=ledgers or {})
        return verdict, {check.name: check for check in verdict.checks}

    return judged
