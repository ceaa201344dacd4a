import json

import pytest

from fedtrain.audit import audit, read_report
from fedtrain.privacy import PrivacyPlan
from tests.unit.audit.world import World, spec


@pytest.mark.slow
def test_two_hundred_rounds_of_fifty_clients_hold():
    # How long it takes is measured by benchmarks/audit.py.
    plan = PrivacyPlan(spec=spec(rounds=200, epsilon=400.0), noise_multiplier=2.0)
    world = World(plan=plan, clients=50, rounds=200, earlier=(), lost=(), refused=(), silent=())
    verdict = audit(read_report(json.dumps(world.report()).encode()), roster=world.roster)
    assert verdict.holds
    assert "20000 entries" in next(check.detail for check in verdict.checks if check.name == "clients' ledgers")
