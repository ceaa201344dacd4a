"""Rounds that nobody paid for, and ledgers whose end is hidden. All are made with the server's key alone."""

import copy
import json
import re
from dataclasses import replace

import pytest

from fedtrain.config.loading import config_digest
from fedtrain.ledger.record import PAYLOAD_TYPE as RECORD
from fedtrain.privacy import PrivacyPlan
from tests.unit.audit.world import (
    World,
    chain,
    changed,
    client_world,
    digest,
    edit_records,
    payload,
    record_world,
    spec,
)


def of(records, kind, number):
    return next(record for record in records if record["kind"] == kind and record["round"] == number)


def with_more_rounds(world, plain, *, config):
    """Let the server do a round more than the plan has, and tell of it everywhere; in the configuration if asked."""
    forged = copy.deepcopy(plain)
    number = forged["rounds"] + 1
    forged.update(rounds=number, planned_rounds=number)
    forged["round_log"].append({**forged["round_log"][-1], "round": number})
    forged["privacy"]["curve"].append({**forged["privacy"]["curve"][-1], "round": number})
    if config:
        forged["config"]["federation.rounds"] = number

    def edit(records):
        records[0].update(rounds=number, config=config_digest(forged["config"]))
        asked, completed = (copy.deepcopy(of(records, kind, number - 1)) for kind in ("asked", "completed"))
        for record in (asked, completed):
            record.update(round=number, model=digest("more"))
        records[-1:] = [asked, completed, records[-1]]

    return edit_records(world, forged, edit)


@pytest.mark.parametrize("config", [False, True])
@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_with_secret_cohorts_a_round_more_than_the_plan_pays_for_is_refuted(config, noise, judge):
    world = client_world(noise=noise)
    _, checks = judge(with_more_rounds(world, world.report(), config=config), world.roster)
    assert checks["first record"].detail == "the plan pays for 4 rounds, and the run was opened with 5"
    name = "rounds is 5 by the configuration, and 4 in the plan" if config else "planned_rounds is 4 by the configurati"
    assert name in checks["configuration"].detail


def test_a_round_beyond_the_first_record_is_refuted(secret_world, judge):
    plain = secret_world.report()

    def edit(records):
        for record in records[-3:-1]:
            record.update(round=5)

    _, checks = judge(edit_records(secret_world, plain, edit), secret_world.roster)
    assert "round 5 was asked, and the run was opened with 4" in checks["rounds"].detail


def test_fewer_rounds_planned_than_the_configuration_has_are_refuted(judge):
    world = World(plan=PrivacyPlan(spec=spec(rounds=4), noise_multiplier=2.0), rounds=2, status="interrupted")
    plain = world.report()
    assert judge(plain, world.roster)[0].holds
    forged = {**plain, "planned_rounds": 2, "status": "completed", "reason": None}
    verdict, checks = judge(edit_records(world, forged, lambda records: records[0].update(rounds=2)), world.roster)
    assert not verdict.holds
    assert checks["configuration"].status == "fails"


def test_more_rounds_than_each_client_takes_part_in_are_honest(judge):
    """Of four rounds each client trains in two at most, and the plan is for two."""
    missing = tuple((number, client) for number in (3, 4) for client in range(4))
    plan = PrivacyPlan(spec=spec(rounds=2), noise_multiplier=2.0)
    world = World(plan=plan, earlier=(), lost=(), refused=missing, silent=())
    plain = world.report()
    assert (plain["planned_rounds"], plain["privacy"]["mechanism"]["rounds"]) == (4, 2)
    assert judge(plain, world.roster)[0].holds


# --- rounds that are done again -------------------------------------------------------------------------------------


def again(number, *, between=(), **changes):
    """Do a round again, right after it; what is between, and what is another the second time."""

    def edit(records):
        place = records.index(of(records, "completed", number)) + 1
        asked, completed = (copy.deepcopy(of(records, kind, number)) for kind in ("asked", "completed"))
        completed.update(changes)
        records[place:place] = [*copy.deepcopy(between), asked, completed]

    return edit


def interrupted(rounds):
    return {
        "kind": "closed",
        "time": "2026-02-03T04:05:06Z",
        "status": "interrupted",
        "rounds": rounds,
        "report": "0" * 64,
    }


def resumed(world, plain, edit):
    """Change the record, and keep what closed it in between."""
    records = [payload(envelope) for envelope in plain["proof"]["record"]]
    edit(records)
    plain = world.closed(plain)
    end = payload(plain["proof"]["record"][-1])
    return {**plain, "proof": {**plain["proof"], "record": chain(RECORD, [*records[:-1], end], world.server)}}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (again(2, between=[interrupted(2)]), "round 2 was released twice, and reserved once"),
        (lambda records: records.insert(-1, of(records, "completed", 4)), "round 4 was completed without having been"),
        (lambda records: records.insert(-1, of(records, "completed", 4)), "round 4 was released twice, and reserved"),
        (lambda records: records.extend([*copy.deepcopy(records[1:9]), records.pop()]), "round 1 was released twice"),
    ],
    ids=["after a closing", "without asking", "without asking, twice", "all rounds"],
)
def test_with_secure_noise_a_second_release_of_a_round_is_refuted(edit, message, secret_world, judge):
    verdict, checks = judge(resumed(secret_world, secret_world.report(), edit), secret_world.roster)
    assert not verdict.holds
    assert message in checks["rounds"].detail


def test_a_round_that_was_asked_with_another_model_is_refuted(secret_world, judge):
    def edit(records):
        again(2)(records)
        places = [place for place, record in enumerate(records) if record.get("round") == 2]
        for place in places[2:]:
            records[place]["model"] = digest("what the first release gave")

    _, checks = judge(resumed(secret_world, secret_world.report(), edit), secret_world.roster)
    assert "round 2 was asked with two models: the round before was released twice" in checks["rounds"].detail


@pytest.mark.parametrize(
    "edit",
    [
        again(2),
        again(2, aggregate=digest("another")),
        lambda records: (again(2)(records), again(2)(records)),
        lambda records: records.insert(3, copy.deepcopy(records[3])),
        lambda records: records.insert(3, interrupted(1)),
    ],
    ids=["killed", "another noise", "killed twice", "asked again", "stopped"],
)
def test_with_secure_noise_a_round_whose_model_was_lost_may_be_done_again(edit, secret_world, judge):
    verdict, checks = judge(resumed(secret_world, secret_world.report(), edit), secret_world.roster)
    assert checks["rounds"].status == "holds"
    assert verdict.holds


def test_with_seeded_noise_the_same_model_comes_again(judge):
    world = client_world(noise="seeded")
    for edit in (again(2), again(2, between=[interrupted(2)])):
        assert judge(resumed(world, world.report(), edit), world.roster)[0].outcome == "simulation"
    forged = resumed(world, world.report(), again(2, aggregate=digest("another")))
    assert "round 2 was done twice and gave two models" in judge(forged, world.roster)[1]["rounds"].detail


def test_where_each_round_is_reserved_a_repetition_is_paid_for_by_entries(judge):
    world = client_world("capped", noise="seeded")
    verdict, _ = judge(resumed(world, world.report(), again(2, between=[interrupted(2)])), world.roster)
    assert verdict.outcome == "simulation"


def test_a_run_that_stopped_may_have_lost_its_last_round(judge):
    """It was completed, and Ctrl-C came before its model was saved."""
    world = record_world(status="interrupted", silent=())
    plain = world.report()
    plain["evaluation"] = {"final": None, "best": None, "history": []}
    plain = world.closed({**plain, "rounds": 3, "round_log": plain["round_log"][:3]})
    verdict, checks = judge(plain, world.roster)
    assert verdict.holds
    assert checks["rounds"].detail.endswith("and another that was lost when the run stopped")


# --- statements -----------------------------------------------------------------------------------------------------


def denied(world, plain, client, statement):
    """Let the server deny that it ever asked a client, and show what that signed when it joined."""
    forged = copy.deepcopy(plain)
    forged["proof"]["ledgers"][client].update(entries=[], statement=statement)
    for entry in forged["round_log"]:
        for name in ("cohort", "completed"):
            entry[name] = [other for other in entry[name] if other != client]
        entry["dropped"] = [drop for drop in entry["dropped"] if drop["client"] != client]

    def edit(records):
        for record in records:
            if "cohort" in record:
                record["cohort"].remove(client)
            for name in ("updates", "dropped"):
                if name in record:
                    record[name] = [part for part in record[name] if part["client"] != client]

    forged = edit_records(world, forged, edit)
    claimed = world.claimed(forged["proof"])
    return world.closed({**claimed, "round_log": forged["round_log"]})


def test_the_statement_of_joining_does_not_vouch_for_the_end(world, honest, judge):
    joined = world.statement(1, [], round=0)
    verdict, checks = judge(denied(world, honest, 1, joined), world.roster)
    assert not verdict.holds
    assert checks["clients' statements"].detail == (
        "client 1: its statement is of round 0, and the last round that anyone was asked in is 4"
    )


def test_a_client_that_states_at_the_end_that_it_did_nothing_is_believed(world, honest, judge):
    verdict, checks = judge(denied(world, honest, 1, world.statement(1, [])), world.roster)
    assert verdict.holds
    assert checks["clients' statements"].status == "not proven"  # of client 3, which fell silent


def test_with_secret_cohorts_the_statement_of_joining_hides_no_reservation(secret_world, judge):
    proof = secret_world.report()["proof"]
    proof["ledgers"][1].update(entries=[], statement=secret_world.statement(1, [], round=0))
    verdict, checks = judge(secret_world.closed(secret_world.claimed(proof)), secret_world.roster)
    assert not verdict.holds
    assert "client 1: its statement is of round 0" in checks["clients' statements"].detail
    assert "client 1: no reservation for the run" in checks["entries were asked for"].detail


def test_with_secret_cohorts_who_refused_or_was_gone_at_the_end_is_excused(secret_world, judge):
    proof = secret_world.report()["proof"]
    proof["ledgers"][1].update(entries=[], statement=secret_world.statement(1, [], round=0, refusal="no budget"))
    proof["ledgers"][2]["statement"] = None
    verdict, checks = judge(secret_world.closed(secret_world.claimed(proof)), secret_world.roster)
    assert verdict.holds
    assert checks["clients' statements"].status == "not proven"
    assert re.search("client 1: .*; client 2: no statement says", checks["clients' statements"].detail)


def test_a_client_that_refused_and_left_is_excused(judge):
    world = record_world(refused=((3, 2), (4, 2)), silent=())
    plain = world.report()
    plain["proof"]["ledgers"][2]["statement"] = world.statement(
        2, plain["proof"]["ledgers"][2]["entries"], round=3, refusal="no budget"
    )

    def edit(records):
        of(records, "asked", 4)["cohort"].remove(2)
        completed = of(records, "completed", 4)
        completed["dropped"] = [drop for drop in completed["dropped"] if drop["client"] != 2]

    plain = world.claimed(edit_records(world, plain, edit)["proof"])
    verdict, checks = judge(world.closed(plain), world.roster)
    assert verdict.holds
    assert "client 2: its statement is of round 3" in checks["clients' statements"].detail


def test_the_oldest_statement_is_named(judge):
    world = record_world(silent=())
    plain = world.report()
    early = world.statement(1, plain["proof"]["ledgers"][1]["entries"], time="2026-02-03T03:00:00Z")
    _, checks = judge(world.closed(changed(plain, "proof.ledgers.1.statement", early)), world.roster)
    assert checks["clients' statements"].status == "holds"
    assert checks["clients' statements"].detail.endswith("the oldest statement is of 2026-02-03T03:00:00Z")


def test_the_end_of_a_run_can_be_withheld_and_the_audit_says_what_is_open(judge):
    """The server reports that it stopped after two of four rounds. The ledger of a client shows it."""
    whole = record_world(silent=(), lost=(), refused=())
    own = b"".join(
        json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        for entry in whole.report()["proof"]["ledgers"][1]["entries"]
    )
    part = replace(whole, rounds=2, status="interrupted", keys=whole.keys)
    plain = part.report()
    for ledger in plain["proof"]["ledgers"]:
        ledger["statement"] = None
    plain = part.closed(part.claimed(plain["proof"]))
    verdict, checks = judge(plain, part.roster)
    assert verdict.holds
    assert checks["clients' statements"].status == "not proven"
    _, checks = judge(plain, part.roster, {"mine.jsonl": own})
    assert "client 1: truncated: round 3 of this run is in mine.jsonl" in checks["clients' own files"].detail
