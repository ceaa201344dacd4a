"""Correlated noise: what a report says of it follows from the plan, and participations are as far apart as it needs.

All forgeries are made with the server's key, and those of participations with the clients' keys as well.
"""

import copy
import re
from dataclasses import asdict, replace

import pytest

from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.correlation import inflation, mean_error
from tests.unit.audit.test_words import reconfigured
from tests.unit.audit.world import changed, client_world, correlated_world, edit_records, spec


@pytest.fixture(scope="module")
def banded():
    return correlated_world()


@pytest.fixture(scope="module")
def honest(banded):
    return banded.report()


@pytest.mark.parametrize("noise", ["secure", "seeded"])
def test_an_honest_run_holds_and_says_how_its_noise_is_correlated(noise, judge):
    world = correlated_world(noise=noise)
    plain = world.report()
    verdict, checks = judge(plain, world.roster)
    assert not verdict.of("fails")
    assert checks["entries follow the plan"].detail.endswith(
        "no client took part more than 2 times, or sooner than 2 rounds later"
    )
    shown, correlation = plain["privacy"]["mechanism"]["correlation"], world.plan.spec.correlation
    assert shown == asdict(correlation) | {
        "value_noise_multiplier": 2.0 * inflation(correlation, 2),
        "error": mean_error(correlation, 2),
    }
    assert "rounds apart" in plain["privacy"]["sampling"]["reason"]
    assert "let no client take part twice within 2 rounds" in plain["privacy"]["trusted"][-1]


def test_without_correlation_nothing_is_said_of_it(judge):
    assert "correlation" not in client_world("capped").report()["privacy"]["mechanism"]


def planned(world, plain, **changes):
    """Change the correlation in the plan of the first record, and in the report."""
    forged = copy.deepcopy(plain)
    data = forged["privacy"]["mechanism"]["plan"]
    data["spec"]["correlation"].update(changes)
    forged["privacy"]["mechanism"]["correlation"].update(changes)

    def edit(records):
        records[0]["plan"] = data

    return edit_records(world, forged, edit)


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        ({"bands": 1}, "entries follow the plan", r"entry 1 was signed for the plan \w+, and the run's is"),
        (
            {"bands": 1},
            "configuration",
            r"correlation is .*bands=2\) by the configuration, and .*bands=1\) in the plan",
        ),
        ({"separation": 3, "bands": 3}, "configuration", "correlation is .*separation=2.* and .*separation=3"),
        ({"separation": 3, "bands": 3}, "entries follow the plan", "round 3, client 0: it took part in round 1, and"),
        ({"rounds": 3}, "first record", "the noise is correlated over 3 rounds, and the run was opened with 4"),
    ],
)
def test_another_correlation_in_the_plan_is_refuted(changes, check, message, banded, honest, judge):
    verdict, checks = judge(planned(banded, honest, **changes), banded.roster)
    assert not verdict.holds
    found = checks[check]
    assert found.status == "fails"
    assert re.search(message, found.detail), found.detail


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("separation", 3, "separation is 3 in the report, and 2 in the plan"),
        ("bands", 4, "bands is 4 in the report, and 2 in the plan"),
        ("value_noise_multiplier", 2.0, r"noise multiplier of the draws is 2.0 in the report, and 2\.\d+ in the"),
        ("error", 0.1, r"error of the model is 0.1 in the report, and 0\.\d+ in the plan"),
    ],
)
def test_what_does_not_follow_from_the_plan_is_refuted(name, value, message, banded, honest, judge):
    forged = banded.closed(changed(honest, f"privacy.mechanism.correlation.{name}", value))
    _, checks = judge(forged, banded.roster)
    assert checks["mechanism"].status == checks["claim"].status == "fails"
    assert re.search(message, checks["mechanism"].detail), checks["mechanism"].detail


def test_independent_noise_is_not_relabelled(judge):
    world = client_world("capped")
    plain = world.report()
    shown = correlated_world().report()["privacy"]["mechanism"]["correlation"]
    forged = world.closed(changed(plain, "privacy.mechanism.correlation", shown))
    _, checks = judge(forged, world.roster)
    assert "correlation is" in checks["mechanism"].detail
    assert checks["mechanism"].status == "fails"
    # Nor by the kind of the plan alone, whoever signs it.
    relabelled = replace(world, plan=replace(world.plan, kind=correlated_world().plan.kind))
    forged = edit_records(world, plain, lambda records: records[0].update(plan=relabelled.plan.as_data()))
    verdict, checks = judge(forged, world.roster)
    assert not verdict.holds
    assert "its spec has no correlation" in checks["first record"].detail


def test_a_correlation_under_the_name_of_independent_noise_is_no_plan(banded, honest, judge):
    data = replace(banded.plan, kind=client_world("capped").plan.kind).as_data()
    forged = edit_records(banded, honest, lambda records: records[0].update(plan=data))
    _, checks = judge(forged, banded.roster)
    assert "its spec has a correlation" in checks["first record"].detail


def test_a_configuration_with_a_lower_separation_is_refuted(judge):
    world = correlated_world(separation=4)
    plain = world.report()
    assert judge(plain, world.roster)[0].holds
    _, checks = judge(reconfigured(world, plain, **{"privacy.separation": 2}), world.roster)
    assert checks["configuration"].status == "fails"
    assert "separation=2" in checks["configuration"].detail


def test_participations_that_are_too_near_are_named_though_all_signed_them(judge):
    """Server and clients agree on a plan for a separation of 4, and take part every second round."""
    world = correlated_world(separation=4, turns=2, lost=(), refused=(), silent=())
    verdict, checks = judge(world.report(), world.roster)
    assert not verdict.holds
    detail = checks["entries follow the plan"].detail
    assert "client 0 took part 2 times, and the noise is for 1" in detail
    assert "round 3, client 0: it took part in round 1, and the noise is for 4 rounds from one to the next" in detail


def test_a_question_that_was_left_unanswered_counts_as_taking_part(judge):
    world = correlated_world(separation=4, turns=2, lost=(), refused=(), silent=((3, 0), (3, 2)))
    _, checks = judge(world.report(), world.roster)
    assert "round 3, client 0: it took part in round 1" in checks["entries follow the plan"].detail


def test_a_plan_of_adaptive_clipping_has_no_correlation():
    plan = PrivacyPlan(spec=spec("client", "capped"), noise_multiplier=2.0)
    assert "correlation" not in plan.as_data()["spec"]
