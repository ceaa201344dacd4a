import copy
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from fedtrain.audit import CHECKS, audit, read_report
from fedtrain.audit.run import LIMITS
from fedtrain.crypto import Identity
from fedtrain.ledger.entry import PAYLOAD_TYPE
from fedtrain.privacy import PrivacyPlan, SampledGaussian
from fedtrain.trust import Roster
from tests.unit.audit.world import (
    World,
    adaptive_world,
    chain,
    changed,
    client_world,
    digest,
    edit_records,
    line,
    record_world,
    spec,
)

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "audit-a-report.md"


@pytest.mark.parametrize(
    "make",
    [
        record_world,
        lambda: record_world(noise="seeded"),
        lambda: record_world(status="interrupted"),
        client_world,
        lambda: client_world("capped"),
        adaptive_world,
        lambda: record_world(earlier=(), lost=(), refused=(), silent=()),
        lambda: World(
            plan=PrivacyPlan(spec=spec(rounds=1), noise_multiplier=2.0), rounds=0, earlier=(), status="interrupted"
        ),
    ],
    ids=["record", "seeded", "interrupted", "poisson", "capped", "adaptive", "undisturbed", "no rounds"],
)
def test_an_honest_report_holds(make, judge):
    world = make()
    plain = world.report()
    own = b"".join(map(line, plain["proof"]["ledgers"][0]["entries"]))
    verdict, checks = judge(plain, world.roster, {"own.jsonl": own} if own else {})
    assert not verdict.of("fails")
    assert verdict.outcome == ("simulation" if world.noise == "seeded" else "holds")
    named = {"clients' own files", "noise", *(name for name, _ in LIMITS)}
    if world.silent and world.status == "completed":
        named.add("clients' statements")
    assert {name for name, check in checks.items() if check.status == "not proven"} <= named
    assert [check.name for check in verdict.checks] == [*(name for name, _ in CHECKS), *(name for name, _ in LIMITS)]


def test_every_check_and_every_limit_is_on_the_page():
    text = PAGE.read_text()
    for name in (name for name, _ in CHECKS if name != "noise"):
        rows = re.findall(r"^\| ([^|]+) \|", text, flags=re.MULTILINE)
        shown = {part.strip() for row in rows for part in re.split(r"[;,]", row)} | {row.strip() for row in rows}
        assert name in shown or name.removeprefix("epsilon, ") in shown, name
    for name in ("noise", *(name for name, _ in LIMITS)):
        assert f"- **{name}**" in text


def test_a_report_without_privacy_has_nothing_to_audit(honest):
    plain = copy.deepcopy(honest)
    privacy = plain["privacy"]
    unset = ("epsilon", "delta", "budget", "unit", "neighbouring", "mechanism", "sampling", "noise")
    empty = ("adversaries", "trusted", "accountants", "clients", "events", "curve")
    privacy.update({**dict.fromkeys(unset), "mode": "none", **{name: [] for name in empty}})
    verdict = audit(read_report(json.dumps({**plain, "proof": None}).encode()))
    assert [(check.name, check.status) for check in verdict.checks] == [("claim", "fails")]


def test_what_rests_on_something_broken_is_not_looked_at(world, honest, judge):
    plain = copy.deepcopy(honest)
    plain["proof"]["record"] = []
    _, checks = judge(plain, world.roster)
    assert checks["server's record"].detail == "the server's record is empty"
    assert checks["closing"].detail.endswith("there is none")
    for name in ("first record", "updates have entries", "epsilon", "delta", "mechanism"):
        assert checks[name].status == "not proven"
        assert checks[name].detail == "the server's record lacks the first record of a run"
    plain = copy.deepcopy(honest)
    plain["proof"]["ledgers"][1]["entries"].pop(0)
    _, checks = judge(plain, world.roster)
    assert checks["epsilon"].detail == "the ledger of client 1 does not verify"
    assert (
        "round 1, client 1: an update was used, and the client has no ledger" in checks["updates have entries"].detail
    )


def test_without_the_ledger_of_who_spent_most_the_accountants_are_not_proven(world, honest, judge):
    plain = copy.deepcopy(honest)
    del plain["proof"]["ledgers"][0]
    verdict, checks = judge(plain, world.roster)
    assert not verdict.holds
    assert checks["accountants"].detail == "there is no ledger of the client that spent most"


def test_a_delta_that_lets_a_record_be_published_is_named(world, honest, judge):
    _, checks = judge(changed(honest, "privacy.delta", 0.02), world.roster)
    assert "delta is 0.02, not below 1 / 64" in checks["delta"].detail


def test_without_any_usable_keys_nothing_is_verified(honest, judge):
    plain = copy.deepcopy(honest)
    plain["proof"]["roster"] = {}
    verdict, checks = judge(plain, None, {"own.jsonl": b""})
    assert not verdict.holds
    assert "cannot be used: not a roster" in checks["pinned keys"].detail
    assert "there are no keys to verify with" in checks["server's record"].detail


def test_clients_that_were_gone_at_the_end_are_excused_and_named(judge):
    world = record_world(silent=((4, 1), (4, 3)))
    plain = world.report()
    for client in (1, 3):
        plain["proof"]["ledgers"][client]["statement"] = None
    plain = world.closed(world.claimed(plain["proof"]))
    verdict, checks = judge(plain, world.roster)
    assert verdict.holds
    assert checks["clients' statements"].status == "not proven"
    assert checks["clients' statements"].detail.startswith(
        "client 1: no statement says that its ledger is all of it; c"
    )
    own = b"".join(map(line, plain["proof"]["ledgers"][1]["entries"]))
    _, checks = judge(plain, world.roster, {"own.jsonl": own})
    assert checks["clients' statements"].detail.startswith("client 3: no statement")


def test_in_a_run_that_did_not_complete_statements_may_be_missing(judge):
    world = record_world(status="interrupted", silent=(), refused=(), lost=())
    plain = world.report()
    for ledger in plain["proof"]["ledgers"]:
        ledger["statement"] = None
    verdict, checks = judge(world.closed(world.claimed(plain["proof"])), world.roster)
    assert verdict.holds
    assert "; and 1 more" in checks["clients' statements"].detail


def test_a_reservation_beyond_the_report_is_no_cut_where_the_round_is_charged(judge):
    """Client 3 reserved round 4, and the server never saw it: it was asked, and charged."""
    world = record_world()
    plain = world.report()
    longer = replace(world, silent=(), lost=(*world.lost, (4, 3))).report()
    own = b"".join(map(line, longer["proof"]["ledgers"][3]["entries"]))
    verdict, checks = judge(plain, world.roster, {"own.jsonl": own})
    assert verdict.holds
    assert checks["clients' own files"].status == "holds"


def test_later_entries_of_other_runs_are_counted(judge):
    world = record_world(earlier=())
    plain = world.report()
    later = [*world.ledger(1), world.entry(1, 1, "reserved", run="a-later-run")]
    own = b"".join(map(line, chain(PAYLOAD_TYPE, later, world.keys[1])))
    _, checks = judge(plain, world.roster, {"own.jsonl": own})
    assert checks["clients' own files"].detail.endswith("they have 1 later entries of other runs")


def test_two_clients_with_one_data_set_are_named(judge):
    world = record_world()
    plain = world.report()
    same = [{**entry, "dataset": digest("records", 0)} for entry in world.ledger(1)]
    plain["proof"]["ledgers"][1]["entries"] = chain(PAYLOAD_TYPE, same, world.keys[1])
    _, checks = judge(plain, world.roster)
    assert "clients 0 and 1 signed for one and the same data set" in checks["clients' ledgers"].detail


def test_a_budget_that_is_exceeded_is_named(judge):
    plan = PrivacyPlan(spec=spec(epsilon=1.0), noise_multiplier=2.0)
    world = World(plan=plan)
    plain = world.report()
    plain["privacy"]["budget"] = 2.0
    _, checks = judge(world.closed(plain), world.roster)
    first, *rest = checks["budget"].detail.split("; ")
    assert first == "the budget is 2.0 in the report, and 1.0 in the plan"
    assert re.search(r"client 0: this run charged epsilon \d\.\d+, beyond the budget of 1", rest[0])


def test_a_clients_own_budget_that_is_exceeded_is_named(judge):
    world = record_world(own=0.5)
    verdict, checks = judge(world.report(), world.roster)
    assert verdict.holds
    assert checks["budget"].status == "not proven"
    assert re.search(r"client 0: epsilon \d\.\d+ is beyond its own budget of 0.5", checks["budget"].detail)


def test_a_clients_own_budget_at_another_delta_is_not_told(judge):
    world = record_world()
    plain = world.report()
    entries = plain["proof"]["ledgers"][1]["entries"]
    plain["proof"]["ledgers"][1]["statement"] = world.statement(1, entries, delta=1e-6)
    plain = world.closed(world.claimed(plain["proof"]))
    assert plain["privacy"]["clients"][1]["budget"] is None
    assert judge(plain, world.roster)[0].holds
    _, checks = judge(changed(plain, "privacy.clients.1.budget", 50.0), world.roster)
    assert checks["budget"].detail == "client 1: its own budget is 50.0 in the report, and it signed None"


def test_a_plan_that_is_none_is_said(world, honest, judge):
    plain = edit_records(world, honest, lambda records: records[0]["plan"].pop("kind"))
    _, checks = judge(plain, world.roster)
    assert "the plan of the first record is no plan" in checks["epsilon"].detail


def test_an_epsilon_above_the_ceiling_is_named(world, honest, judge):
    plain = copy.deepcopy(honest)
    for client in plain["privacy"]["clients"]:
        client["epsilon"] = 300.0
    plain["privacy"].update(epsilon=300.0, curve=[])
    plain["privacy"]["accountants"][0]["epsilon"] = 300.0
    _, checks = judge(plain, world.roster)
    assert "epsilon is 300, dp-accounting RDP gives" in checks["epsilon, ceiling"].detail
    assert "epsilon is overstated: 300" in checks["epsilon"].detail
    assert "the claim is 300, and dp-accounting PLD, pessimistic gives" in checks["accountants"].detail


def test_where_the_second_opinion_gives_up_that_is_said(judge):
    """Opacus' PRV needs too many points for very little noise over many steps."""
    many = SampledGaussian(sampling_rate=0.25, noise_multiplier=0.35, steps=4000)
    world = record_world(older=many, own=1e6)
    verdict, checks = judge(world.report(), world.roster)
    assert verdict.holds
    assert checks["epsilon, second opinion"].status == "not proven"
    assert "gave no bound" in checks["epsilon, second opinion"].detail


@pytest.fixture(params=["opacus", "torch"])
def without(request, monkeypatch):
    """Let a library that the second opinion needs be missing, as for an auditor who has no torch."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "opacus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "fedtrain.privacy.accounting.prv", raising=False)
    monkeypatch.setitem(sys.modules, request.param, None)
    return request.param


def test_without_opacus_the_second_opinion_is_not_proven_and_all_else_is(without, world, honest, judge):
    verdict, checks = judge(honest, world.roster)
    for name in ("epsilon, second opinion", "accountants"):
        assert checks[name].status == "not proven"
        assert f"the second opinion is not available here: {without} is not installed" in checks[name].detail
    assert verdict.holds
    for name in ("epsilon", "epsilon, ceiling", "epsilon over the rounds"):
        assert checks[name].status == "holds"


def test_without_opacus_a_false_claim_fails_all_the_same(without, world, honest, judge):
    plain = copy.deepcopy(honest)
    (told,) = [accountant for accountant in plain["privacy"]["accountants"] if accountant["role"] == "ceiling"]
    told["epsilon"] += 1
    _, checks = judge(plain, world.roster)
    assert checks["accountants"].status == "fails"
    assert f"the ceiling is {told['epsilon']:.6g}, and dp-accounting RDP gives" in checks["accountants"].detail


def test_a_second_opinion_that_is_broken_is_not_taken_for_one_that_is_missing(monkeypatch, world, honest, judge):
    monkeypatch.delitem(sys.modules, "fedtrain.privacy.accounting.prv", raising=False)
    monkeypatch.setitem(sys.modules, "opacus.accountants.analysis.prv", ModuleType("empty"))
    with pytest.raises(ImportError, match="cannot import name"):
        judge(honest, world.roster)


def test_a_curve_of_many_clients_is_checked_by_its_largest_and_median(judge):
    world = World(
        plan=PrivacyPlan(spec=spec(rounds=2), noise_multiplier=2.0),
        clients=41,
        rounds=2,
        earlier=(),
        lost=(),
        refused=(),
        silent=((2, 40),),
    )
    plain = world.report()
    verdict, checks = judge(plain, world.roster)
    assert verdict.holds
    assert checks["epsilon over the rounds"].detail == "3 of 3 values composed again"
    forged = changed(plain, "privacy.curve.1.median", 0.01)
    assert "round 1: the curve says 0.01" in judge(forged, world.roster)[1]["epsilon over the rounds"].detail
    mixed = replace(world, earlier=(0,))
    _, checks = judge(mixed.report(), world.roster)
    assert checks["epsilon over the rounds"].status == "not proven"


def test_a_long_curve_is_checked_at_some_values_and_for_its_order(judge):
    rounds = 30
    plan = PrivacyPlan(spec=spec(rounds=rounds, epsilon=100.0), noise_multiplier=2.0)
    world = World(plan=plan, clients=2, rounds=rounds, earlier=(), lost=(), refused=(), silent=())
    plain = world.report()
    _, checks = judge(plain, world.roster)
    assert checks["epsilon over the rounds"].detail == "12 of 31 values composed again, the others lie between them"
    point = plain["privacy"]["curve"][14]
    point.update(max=0.5, median=0.5, clients=[0.5, 0.5])
    _, checks = judge(plain, world.roster)
    assert re.search(r"round 14: the curve says 0.5, ", checks["epsilon over the rounds"].detail)
    point["clients"][1] = 0.4
    _, checks = judge(changed(plain, "privacy.curve.14.median", 0.4), world.roster)
    assert "round 14: the median of the curve is not that of its clients" in checks["epsilon over the rounds"].detail


@pytest.mark.parametrize("name", ["quantile", "learning_rate", "count_noise", "value_noise_multiplier"])
def test_parameters_of_adaptive_clipping_are_the_plans(name, judge):
    world = adaptive_world()
    plain = changed(world.report(), f"privacy.mechanism.adaptive_clipping.{name}", 0.33)
    _, checks = judge(plain, world.roster)
    assert "0.33 in the report" in checks["mechanism"].detail


def test_a_power_that_another_machine_rounds_in_another_way_is_no_other_claim(judge):
    world = adaptive_world()
    honest = world.report()
    value = honest["privacy"]["mechanism"]["adaptive_clipping"]["value_noise_multiplier"]
    path = "privacy.mechanism.adaptive_clipping.value_noise_multiplier"
    verdict, checks = judge(world.closed(changed(honest, path, math.nextafter(value, 9.0))), world.roster)
    assert verdict.holds
    _, checks = judge(world.closed(changed(honest, path, value * (1 + 1e-6))), world.roster)
    assert path in checks["claim"].detail


def test_a_roster_of_another_run_is_called_so(honest, judge):
    _, checks = judge(honest, client_world("capped").roster)
    detail = checks["pinned keys"].detail
    assert detail.startswith(
        "no key is a pinned one: the roster is that of another run, or the report is; the server's"
    )


def test_clients_that_are_only_pinned_or_only_in_the_report_are_named(world, honest, judge):
    fewer = Roster(server=world.roster.server, clients={client: world.roster.clients[client] for client in (0, 1, 2)})
    _, checks = judge(honest, fewer)
    assert checks["pinned keys"].detail == "client 3 has no pinned key"
    assert "client 3 has a ledger and no key" in checks["clients' ledgers"].detail
    assert "client 3 is in privacy.clients and not in the roster" in checks["clients"].detail
    more = Roster(server=world.roster.server, clients={**world.roster.clients, 4: Identity.generate().public})
    _, checks = judge(honest, more)
    assert checks["pinned keys"].detail == "client 4 is missing from the report's roster"
    assert "client 4 has no ledger" in checks["clients' ledgers"].detail


def test_with_secure_noise_each_reservation_needs_a_question(judge):
    world = record_world()
    plain = world.report()
    twice = [*world.ledger(1), world.entry(1, 3, "reserved")]
    plain["proof"]["ledgers"][1]["entries"] = chain(PAYLOAD_TYPE, twice, world.keys[1])
    _, checks = judge(plain, world.roster)
    assert checks["entries were asked for"].detail == (
        "round 3, client 1: entry 7 reserves a round that was asked only 1 times"
    )


def test_a_record_that_names_who_was_dropped_voids_the_amplification(secret_world, judge):
    def edit(records):
        records[2]["dropped"].append({"client": 1, "reason": "no answer"})

    _, checks = judge(edit_records(secret_world, secret_world.report(), edit), secret_world.roster)
    assert "the accounting needs cohorts to be secret" in checks["updates have entries"].detail


def test_a_client_that_a_round_names_twice_is_named(world, honest, judge):
    def edit(records):
        records[2]["dropped"].append({"client": 0, "reason": "no answer"})

    _, checks = judge(edit_records(world, honest, edit), world.roster)
    assert "round 1: client 0 is named twice" in checks["rounds"].detail


def test_a_round_that_the_log_lacks_is_named(world, honest, judge):
    plain = copy.deepcopy(honest)
    del plain["round_log"][1]
    _, checks = judge(plain, world.roster)
    assert checks["round log"].detail == "round 2 was completed and is missing from the report's log"


def test_fewer_rounds_in_the_report_than_were_completed(judge):
    world = record_world(status="interrupted")
    plain = world.report()
    plain["evaluation"] = {"final": None, "best": None, "history": []}
    _, checks = judge({**plain, "rounds": 2}, world.roster)
    assert checks["rounds"].detail == "the server completed 4 rounds, and the report says 2"
    assert "closed the run after round 4, and the report says 2" in checks["closing"].detail
