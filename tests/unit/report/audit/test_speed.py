import json
import time

import pytest

from fedtrain.privacy import PrivacyPlan
from fedtrain.report.audit import audit, read_report
from tests.unit.report.audit.world import World, spec


@pytest.mark.slow
def test_two_hundred_rounds_of_fifty_clients_are_audited_in_ten_seconds():
    plan = PrivacyPlan(spec=spec(rounds=200, epsilon=400.0), noise_multiplier=2.0)
    world = World(plan=plan, clients=50, rounds=200, earlier=(), lost=(), refused=(), silent=())
    data = json.dumps(world.report()).encode()
    audit(read_report(json.dumps(World(plan=plan).report()).encode()))  # what is imported once is not counted
    start = time.process_time()
    verdict = audit(read_report(data), roster=world.roster)
    seconds = time.process_time() - start
    assert verdict.holds
    assert "20000 entries" in next(check.detail for check in verdict.checks if check.name == "clients' ledgers")
    assert seconds < 10
