"""Ways to claim more noise than clients share, or noise of others than they are, and the check that says so."""

import copy
import re

import pytest

from tests.unit.audit.world import edit_records, record_world, shared_world


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "masked"])
def sharing(request):
    return shared_world(secagg=request.param, sealed=request.param)


@pytest.fixture(scope="module")
def shared(sharing):
    return sharing.report()


def shares(plain):
    return plain["privacy"]["mechanism"]["shares"]


def of(records, kind, number):
    return next(record for record in records if record["kind"] == kind and record["round"] == number)


def test_an_honest_report_holds(sharing, shared, judge):
    verdict, checks = judge(shared, sharing.roster)
    assert [f"{check.name}: {check.detail}" for check in verdict.checks if check.status == "fails"] == []
    assert verdict.holds
    assert checks["epsilon"].status == "holds"


def larger_share(world, plain):
    shares(plain).update(share=4 * shares(plain)["share"], variance=4 * shares(plain)["variance"])


def fewer_colluders(world, plain):
    shares(plain).update(colluders=0, honest=3)


def lower_threshold(world, plain):
    shares(plain).update(threshold=2, honest=1)


def rounding_ignored(world, plain):
    shares(plain).update(l2=shares(plain)["steps"])


def rounding_ignored_in_charges(world, plain):
    for event in plain["privacy"]["events"]:
        if "skellam" in event:
            event["skellam"]["l2"] = shares(plain)["steps"]


def more_noise_in_charges(world, plain):
    for event in plain["privacy"]["events"]:
        if "skellam" in event:
            event["skellam"]["variance"] *= 2


def nobody_colludes(world, plain):
    privacy = plain["privacy"]
    privacy["statement"] = privacy["statement"].replace("no more than 1 of the 4", "no more than 2 of the 4")


def server_bounded(world, plain):
    for adversary in plain["privacy"]["adversaries"]:
        adversary["bounded"] = True
        adversary["by"] = "noise"


FORGERIES = [
    (larger_share, "mechanism", r"shares.share is \d+ in the report, and \d+ in the plan"),
    (larger_share, "claim", r"privacy.mechanism.shares.variance is \d+ in the report"),
    (fewer_colluders, "mechanism", r"shares.colluders is 0 in the report, and 1 in the plan"),
    (lower_threshold, "mechanism", r"shares.threshold is 2 in the report, and 3 in the plan"),
    (rounding_ignored, "mechanism", r"shares.l2 is \d+ in the report, and \d+ in the plan"),
    (rounding_ignored_in_charges, "charges", r"privacy.events has a charge that nothing gives|is missing"),
    (more_noise_in_charges, "charges", r"privacy.events has a charge that nothing gives|is missing"),
    (nobody_colludes, "words", "privacy.statement does not say what follows"),
    (server_bounded, "words", "privacy.adversaries does not say what follows"),
]


@pytest.mark.parametrize(
    ("forge", "check", "message"), FORGERIES, ids=[f"{forge.__name__}-{check}" for forge, check, _ in FORGERIES]
)
def test_a_forgery_without_keys_is_refuted(forge, check, message, sharing, shared, judge):
    plain = copy.deepcopy(shared)
    forge(sharing, plain)
    _, checks = judge(plain, sharing.roster)
    assert checks[check].status == "fails"
    assert re.search(message, checks[check].detail), checks[check].detail


def planned(world, plain, **changes):
    """Have the server sign another plan for the run, and claim what follows from it."""
    forged = edit_records(world, plain, lambda records: records[0]["plan"]["spec"]["shares"].update(changes))
    return world.closed({**forged, **world.claimed(forged["proof"])})


RESIGNED = [
    ({"colluders": 0}, "entries follow the plan", "round 1, client 0: entry 1 was signed for the plan"),
    ({"colluders": 0}, "configuration", r"shares is NoiseShares\(.*colluders=1.*by the configuration, and NoiseShares"),
    ({"colluders": 2}, "entries follow the plan", r"round 1, client 0: entry 1 has variance \d+, and the plan \d+"),
    ({"threshold": 4}, "configuration", r"threshold=3.* by the configuration, and .*threshold=4"),
    ({"threshold": 4}, "transport", "round 2: 3 clients have shares of the noise in the sum, and epsilon counts on 4"),
    ({"bits": 20}, "entries follow the plan", r"round 1, client 0: entry 1 has variance \d+, and the plan \d+"),
    ({"reach": 1}, "configuration", r"reach=16.* by the configuration, and .*reach=1\)"),
]


@pytest.mark.parametrize(("changes", "check", "message"), RESIGNED)
def test_another_plan_with_the_servers_key_is_refuted(changes, check, message, sharing, shared, judge):
    _, checks = judge(planned(sharing, shared, **changes), sharing.roster)
    assert checks[check].status == "fails"
    assert re.search(message, checks[check].detail), checks[check].detail


def test_a_sum_of_fewer_than_the_threshold_is_refuted(judge):
    """The server completes a round whose sum has two shares in it, and signs that."""
    sharing = shared_world()

    def edit(records):
        completed = of(records, "completed", 1)
        lost = completed["updates"][2:]
        completed["updates"] = completed["updates"][:2]
        completed["dropped"] = [{"client": update["client"], "reason": "late"} for update in lost]

    forged = edit_records(sharing, sharing.report(), edit)
    _, checks = judge(sharing.closed(sharing.claimed(forged["proof"])), sharing.roster)
    assert (
        "round 1: 2 clients have shares of the noise in the sum, and epsilon counts on 3" in checks["transport"].detail
    )


def test_a_sum_over_another_cohort_is_refuted(judge):
    sharing = shared_world()

    def edit(records):
        of(records, "asked", 4)["cohort"].remove(3)
        of(records, "completed", 4)["dropped"] = []

    forged = edit_records(sharing, sharing.report(), edit)
    _, checks = judge(sharing.closed(sharing.claimed(forged["proof"])), sharing.roster)
    assert "round 4: it was asked of 3 clients, and the noise is shared by 4" in checks["transport"].detail


def test_a_local_mechanism_is_not_taken_for_a_shared_one(judge):
    """The server calls noise that each client adds by itself noise that they share; each entry says what it is."""
    local, sharing = record_world(), shared_world()
    plan = sharing.plan.as_data()

    def edit(records):
        records[0]["plan"] = plan

    forged = edit_records(local, local.report(), edit)
    _, checks = judge(local.closed(local.claimed(forged["proof"])), local.roster)
    assert re.search(
        "entry 1 has the kind poisson-sampled-gaussian, and the plan poisson-sampled-skellam",
        checks["entries follow the plan"].detail,
    )
    assert "the mechanism is record by the configuration, and record, distributed noise in the plan" in (
        checks["configuration"].detail
    )


def test_a_shared_mechanism_is_not_taken_for_a_local_one(judge):
    local, sharing = record_world(), shared_world()
    forged = edit_records(sharing, sharing.report(), lambda records: records[0].update(plan=local.plan.as_data()))
    _, checks = judge(sharing.closed(sharing.claimed(forged["proof"])), sharing.roster)
    assert re.search("has the kind poisson-sampled-skellam", checks["entries follow the plan"].detail)
