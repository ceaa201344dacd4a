"""Each way to make a report say what is not so, and the check that says what is wrong.

"Resigned" forgeries are made with the server's key: the clients' signatures, or arithmetic, still refute them. What a
holder of the server's key can forge unnoticed is at the end.
"""

import base64
import copy
import json
import re
from dataclasses import replace
from hashlib import sha256

import pytest

from fedtrain.audit import read_report
from fedtrain.crypto import Identity
from fedtrain.errors import ReportError
from fedtrain.ledger.entry import PAYLOAD_TYPE as ENTRY
from fedtrain.ledger.record import PAYLOAD_TYPE as RECORD
from fedtrain.privacy import PrivacyPlan, mechanisms
from fedtrain.privacy.mechanisms.record import RecordLocal
from fedtrain.report import wording
from tests.unit.audit.world import (
    World,
    chain,
    changed,
    client_world,
    edit_records,
    line,
    mechanism,
    payload,
    record_world,
)


def flip(text):
    """Flip one bit of base64."""
    data = bytearray(base64.b64decode(text))
    data[-2] ^= 1
    return base64.b64encode(data).decode()


def entries(plain, client):
    return plain["proof"]["ledgers"][client]["entries"]


def resigned(world, plain, edit):
    """Change the report in place, and sign its digest again with the server's key."""
    plain = copy.deepcopy(plain)
    edit(plain)
    return world.closed(plain)


def of(records, kind, number):
    return next(record for record in records if record["kind"] == kind and record["round"] == number)


# --- without any key ------------------------------------------------------------------------------------------------


def payload_bit(world, plain):
    entry = entries(plain, 1)[2]
    entry["payload"] = base64.b64encode(base64.b64decode(entry["payload"]).replace(b'"round":2', b'"round":3')).decode()


def signature_bit(world, plain):
    signature = entries(plain, 2)[1]["signatures"][0]
    signature["sig"] = flip(signature["sig"])


def record_bit(world, plain):
    signature = plain["proof"]["record"][3]["signatures"][0]
    signature["sig"] = flip(signature["sig"])


def accuracy(world, plain):
    better = {"round": 4, "accuracy": 0.99}
    plain["evaluation"] = {"final": better, "best": better, "history": [better]}


def model_file(world, plain):
    plain["model"]["final"]["sha256"] = "ab" * 32


def entry_dropped(world, plain):
    del entries(plain, 0)[3]


def entries_reordered(world, plain):
    mine = entries(plain, 0)
    mine[1:3], mine[3:5] = mine[3:5], mine[1:3]


def records_reordered(world, plain):
    record = plain["proof"]["record"]
    record[1:3], record[3:5] = record[3:5], record[1:3]


def record_dropped(world, plain):
    del plain["proof"]["record"][2]


def client_tail(world, plain):
    del entries(plain, 0)[-2:]


def server_tail(world, plain):
    del plain["proof"]["record"][-1]


def sigma_in_report(world, plain):
    plain["privacy"]["mechanism"]["noise_multiplier"] = 4.0
    for event in plain["privacy"]["events"]:
        event["noise_multiplier"] = 4.0


def epsilon_in_report(world, plain):
    privacy = plain["privacy"]
    for client in privacy["clients"]:
        client.update(epsilon=0.5, run_epsilon=0.4)
    privacy["epsilon"] = privacy["accountants"][0]["epsilon"] = 0.5
    privacy["curve"] = []


def curve_understated(world, plain):
    for point in plain["privacy"]["curve"][:-1]:
        point.update(max=0.1, median=0.1, clients=[0.1, 0.1, 0.1, 0.1])


def foreign_entry(world, plain):
    forged = chain(ENTRY, [payload(envelope) for envelope in entries(plain, 1)], Identity.generate())
    plain["proof"]["ledgers"][1]["entries"] = forged


def foreign_server(world, plain):
    records = [payload(envelope) for envelope in plain["proof"]["record"]]
    plain["proof"]["record"] = chain(RECORD, records, Identity.generate())


def entries_of_another_client(world, plain):
    plain["proof"]["ledgers"][1]["entries"] = plain["proof"]["ledgers"][2]["entries"]


def ledger_missing(world, plain):
    del plain["proof"]["ledgers"][2]


def client_missing(world, plain):
    del plain["proof"]["ledgers"][2]
    privacy = plain["privacy"]
    privacy["clients"] = [client for client in privacy["clients"] if client["client"] != 2]
    privacy["events"] = [event for event in privacy["events"] if event["client"] != 2]
    privacy["curve"] = []


def client_twice(world, plain):
    plain["proof"]["ledgers"].append(plain["proof"]["ledgers"][2])


def weaker_accountant(world, plain):
    plain["privacy"]["accountants"][0]["name"] = "GDP"


def no_second_opinion(world, plain):
    del plain["privacy"]["accountants"][1]


def delta_in_report(world, plain):
    plain["privacy"]["delta"] = 1e-3


def statement_missing(world, plain):
    plain["proof"]["ledgers"][1]["statement"] = None


def statement_forged(world, plain):
    signature = plain["proof"]["ledgers"][1]["statement"]["signatures"][0]
    signature["sig"] = flip(signature["sig"])


def statement_older(world, plain):
    """A statement that the client did sign, before its last entries."""
    plain["proof"]["ledgers"][1]["statement"] = world.statement(1, entries(plain, 1)[:4])


def statement_of_another_run(world, plain):
    other = replace(world, run="another-run")
    plain["proof"]["ledgers"][1]["statement"] = other.statement(1, entries(plain, 1))


def steps_in_report(world, plain):
    for event in plain["privacy"]["events"]:
        event["steps"] = 1
    for client in plain["privacy"]["clients"]:
        client["steps"] = sum(event["client"] == client["client"] for event in plain["privacy"]["events"])


def charge_left_out(world, plain):
    """The round that client 3 left unanswered."""
    privacy = plain["privacy"]
    privacy["events"] = [event for event in privacy["events"] if (event["client"], event["round"]) != (3, 4)]
    privacy["clients"][3].update(unanswered=[], rounds=[1, 2, 3], steps=9)


def roster_in_report(world, plain):
    plain["proof"]["roster"] = record_world().roster.as_json()


def roster_unreadable(world, plain):
    plain["proof"]["roster"]["clients"]["1"] = plain["proof"]["roster"]["clients"]["0"]


def run_renamed(world, plain):
    plain["run"] = "another-run"
    for event in plain["privacy"]["events"]:
        event["run"] = event["run"].replace("this", "another")


def replayed_record(world, plain):
    """The server's record of another run of the same federation."""
    other = replace(world, run="another-run", lost=(), refused=(), silent=())
    plain["proof"]["record"] = other.report()["proof"]["record"]


def replayed_ledger(world, plain):
    """The ledger of client 1 as it was in another run, signed by it."""
    other = replace(world, run="another-run").report()
    plain["proof"]["ledgers"][1] = other["proof"]["ledgers"][1]


def unit_in_report(world, plain):
    privacy = plain["privacy"]
    privacy.update(mode="client", unit="client", neighbouring="add or remove one client")
    privacy["sampling"]["scheme"] = "Poisson, clients"


def clip_norm_in_report(world, plain):
    plain["privacy"]["mechanism"]["clip_norm"] = 0.1


def plan_in_report(world, plain):
    plain["privacy"]["mechanism"]["plan"]["noise_multiplier"] = 4.0


def clip_norm_of_a_round(world, plain):
    plain["round_log"][1]["clip_norm"] = 0.1


def cohort_in_report(world, plain):
    plain["round_log"][1].update(cohort=[0, 2, 3], dropped=[])


def config_in_report(world, plain):
    plain["config"]["seed"] = 2


def keys_for_all(world, plain):
    """A whole report of one's own making, with keys of one's own."""
    plain.update(record_world().report())


def ledger_entry_malformed(world, plain):
    entries(plain, 1)[0]["more"] = "x"


WITHOUT_KEYS = [
    (payload_bit, "clients' ledgers", r"client 1: entry 2: the signature of key \w+ does not hold"),
    (signature_bit, "clients' ledgers", r"client 2: entry 1: the signature of key \w+ does not hold"),
    (record_bit, "server's record", r"record 3 of the run: the signature of key \w+ does not hold"),
    (accuracy, "closing", "was changed after it was signed"),
    (model_file, "closing", "was changed after it was signed"),
    (entry_dropped, "clients' ledgers", "client 0: entry 3: it is in the place of entry 3"),
    (
        entries_reordered,
        "clients' ledgers",
        "client 0: entry 1: it is in the place of entry 1, and says that it is entry 3",
    ),
    (records_reordered, "server's record", "it is in the place of record 1, and says that it is 3"),
    (record_dropped, "server's record", "it is in the place of record 2, and says that it is 3"),
    (client_tail, "clients' statements", "client 0: it states that its ledger has 9 entries, and the report has 7"),
    (server_tail, "closing", "does not end with a closing: its last record is of kind completed"),
    (sigma_in_report, "mechanism", "noise multiplier is 4.0 in the report, and 2.0 in the plan"),
    (sigma_in_report, "charges", "round 1, client 0: privacy.events has a charge that nothing gives|is missing"),
    (epsilon_in_report, "epsilon", r"client 0: epsilon is understated: 0.5, and its entries give \d"),
    (epsilon_in_report, "epsilon, second opinion", r"client 0: epsilon is 0.5, Opacus PRV, upper end gives \d"),
    (curve_understated, "epsilon over the rounds", r"round \d: the curve says 0.1, and the charges give \d"),
    (foreign_entry, "clients' ledgers", r"client 1: entry 0: it is signed with key \w+, and key \w+ is expected"),
    (foreign_server, "server's record", r"it is signed with key \w+, and key \w+ is expected"),
    (entries_of_another_client, "clients' ledgers", "client 1: entry 0: it is signed with key"),
    (ledger_missing, "clients' ledgers", "client 2 has no ledger"),
    (client_missing, "clients", "client 2 is missing from privacy.clients"),
    (client_twice, "clients' ledgers", "client 2 has more than one ledger"),
    (weaker_accountant, "accountants", 'the claim is of "GDP", which is not the accountant of that role'),
    (no_second_opinion, "accountants", "no second opinion is named"),
    (delta_in_report, "delta", "delta is 0.001 in the report, and 1e-05 in the plan"),
    (statement_missing, "clients' statements", "client 1: no statement says that its ledger is all of it"),
    (statement_forged, "clients' statements", "client 1: its statement does not verify: the signature"),
    (statement_older, "clients' statements", "client 1: its statement is of an earlier state, 4 entries of 7"),
    (statement_of_another_run, "clients' statements", "client 1: its statement is of another run, another-run"),
    (steps_in_report, "charges", r"round \d, client \d: a charge is missing from privacy.events"),
    (charge_left_out, "charges", "round 4, client 3: a charge is missing from privacy.events"),
    (charge_left_out, "clients", r"client 3: unanswered is \(\) in the report, and \(4,\)"),
    (roster_in_report, "pinned keys", "the server's key is another than the pinned one; client 0's key is another"),
    (roster_unreadable, "pinned keys", "cannot be used: client 1 has the same key as client 0"),
    (run_renamed, "first record", "run: this-run in the first record, another-run in the report"),
    (replayed_record, "first record", "run: another-run in the first record, this-run in the report"),
    (replayed_record, "updates have entries", "round 1, client 0: entry 2 settles another update"),
    (replayed_ledger, "updates have entries", "round 1, client 1: the ledger has no settled entry for this update"),
    (unit_in_report, "mechanism", "unit is client in the report, and record in the plan"),
    (clip_norm_in_report, "mechanism", "clip norm is 0.1 in the report, and 1.0 in the plan"),
    (plan_in_report, "first record", "the plan of the report is not the one that the run was opened with"),
    (clip_norm_of_a_round, "round log", "round 2: clip norm 0.1, recorded 1.0"),
    (cohort_in_report, "round log", "round 2: cohort lacks client 1"),
    (config_in_report, "first record", r"configuration digest: \w+ in the first record, \w+ in the report"),
    (keys_for_all, "pinned keys", "client 3's key is another than the pinned one|and 2 more"),
    (ledger_entry_malformed, "clients' ledgers", "client 1: number 0 is not an envelope"),
]


@pytest.mark.parametrize(
    ("forge", "check", "message"), WITHOUT_KEYS, ids=[f"{forge.__name__}-{check}" for forge, check, _ in WITHOUT_KEYS]
)
def test_a_forgery_without_keys_is_refuted(forge, check, message, world, honest, judge):
    plain = copy.deepcopy(honest)
    forge(world, plain)
    verdict, checks = judge(plain, world.roster)
    assert not verdict.holds
    assert checks[check].status == "fails"
    assert re.search(message, checks[check].detail), checks[check].detail


# --- with the server's key ------------------------------------------------------------------------------------------


def with_plan(world, plain, **changes):
    """Let the server claim another plan everywhere: first record, report and charges."""
    noise = changes.pop("noise_multiplier", world.plan.noise_multiplier)
    plan = PrivacyPlan(spec=replace(world.plan.spec, **changes), noise_multiplier=noise)
    forged = replace(world, plan=plan)
    claimed = copy.deepcopy(plain)
    claimed["privacy"].update(
        mechanism=mechanism(plan),
        sampling=wording.sampling(plan).model_dump(mode="json"),
        delta=plan.spec.delta,
        budget=plan.spec.epsilon,
    )
    return edit_records(forged, claimed, lambda records: records[0].update(plan=plan.as_data()))


def sigma_in_plan(world, plain):
    return with_plan(world, plain, noise_multiplier=4.0)


def rate_in_plan(world, plain):
    return with_plan(world, plain, sampling_rate=0.125, population=128.0)


def steps_in_plan(world, plain):
    return with_plan(world, plain, steps_per_round=1)


def delta_in_plan(world, plain):
    return with_plan(world, plain, delta=1e-3)


def clip_norm_in_plan(world, plain):
    return with_plan(world, plain, clip_norm=0.1)


def epsilon_resigned(world, plain):
    return resigned(world, plain, lambda plain: epsilon_in_report(world, plain))


def accountant_resigned(world, plain):
    return resigned(world, plain, lambda plain: weaker_accountant(world, plain))


def unit_resigned(world, plain):
    def edit(records):
        spec = records[0]["plan"]["spec"]
        spec.update(unit="client", neighbouring="add or remove one client")
        records[0]["mode"] = "client"

    claimed = copy.deepcopy(plain)
    unit_in_report(world, claimed)
    return edit_records(world, claimed, edit)


def update_without_entry(world, plain):
    """The server cuts off the last entries of client 0, and keeps the update."""
    cut = copy.deepcopy(plain)
    del entries(cut, 0)[-2:]
    return world.closed(cut)


def tail_cut_on_both_sides(world, plain):
    """The server forgets the last round of client 0, and cuts its ledger to fit."""

    def edit(records):
        of(records, "asked", 4)["cohort"].remove(0)
        completed = of(records, "completed", 4)
        completed["updates"] = [update for update in completed["updates"] if update["client"] != 0]

    cut = copy.deepcopy(plain)
    del entries(cut, 0)[-2:]
    return edit_records(world, cut, edit)


def entry_never_asked(world, plain):
    def edit(records):
        of(records, "asked", 2)["cohort"].remove(3)
        completed = of(records, "completed", 2)
        completed["updates"] = [update for update in completed["updates"] if update["client"] != 3]

    return edit_records(world, plain, edit)


def updates_swapped(world, plain):
    def edit(records):
        first, second, *_ = of(records, "completed", 1)["updates"]
        first["update"], second["update"] = second["update"], first["update"]

    return edit_records(world, plain, edit)


def round_repeated(world, plain):
    """With secure noise a second update of one round needs a second entry."""

    def edit(records):
        records.extend(copy.deepcopy([of(records, "asked", 4), of(records, "completed", 4)]))

    return edit_records(world, plain, edit)


def rounds_swapped(world, plain):
    def edit(records):
        records[1:3], records[3:5] = records[3:5], records[1:3]

    return edit_records(world, plain, edit)


def completed_without_asking(world, plain):
    return edit_records(world, plain, lambda records: records.remove(of(records, "asked", 2)))


def completed_with_a_stranger(world, plain):
    return edit_records(world, plain, lambda records: of(records, "asked", 1)["cohort"].remove(1))


def another_head(world, plain):
    return edit_records(world, plain, lambda records: of(records, "completed", 3)["updates"][0].update(head="0" * 64))


def another_sequence(world, plain):
    return edit_records(world, plain, lambda records: of(records, "completed", 3)["updates"][0].update(sequence=99))


def another_model(world, plain):
    def edit(records):
        for kind in ("asked", "completed"):
            of(records, kind, 2)["model"] = "0" * 64

    return edit_records(world, plain, edit)


def roster_resigned(world, plain):
    """The server puts a key of its own in the place of client 1's, and signs for it."""
    keys = {**world.keys, 1: Identity.generate()}
    return World(plan=world.plan, server=world.server, keys=keys).report()


def round_left_out(world, plain):
    def edit(records):
        del records[3:5]

    return edit_records(world, plain, edit)


RESIGNED = [
    (sigma_in_plan, "entries follow the plan", "round 1, client 0: entry 1 was signed for the plan"),
    (sigma_in_plan, "updates have entries", r"round 1, client 0: entry 2 is of another plan, \w+, than the run's"),
    (rate_in_plan, "entries follow the plan", "round 1, client 0: entry 1 has sampling_rate 0.25, and the plan 0.125"),
    (steps_in_plan, "entries follow the plan", "round 1, client 0: entry 1 has steps 3, and the plan 1"),
    (delta_in_plan, "entries follow the plan", "round 1, client 0: entry 1 was signed for the plan"),
    (clip_norm_in_plan, "entries follow the plan", "round 1, client 0: entry 1 was signed for the plan"),
    (epsilon_resigned, "epsilon", "client 0: epsilon is understated"),
    (accountant_resigned, "accountants", 'the claim is of "GDP"'),
    (unit_resigned, "first record", "the plan of the report is not the one that the run was opened with"),
    (
        update_without_entry,
        "updates have entries",
        "round 4, client 0: the ledger has no settled entry for this update",
    ),
    (tail_cut_on_both_sides, "clients' statements", "client 0: it states that its ledger has 9 entries"),
    (entry_never_asked, "entries were asked for", r"round 2, client 3: entry \d was never asked for"),
    (updates_swapped, "updates have entries", "round 1, client 0: entry 2 settles another update"),
    (round_repeated, "updates have entries", "round 4, client 0: two updates rest on one entry, number 8"),
    (rounds_swapped, "rounds", "round 2 was asked after 0 rounds"),
    (completed_without_asking, "rounds", "round 2 was completed without having been asked"),
    (completed_with_a_stranger, "rounds", "round 1: client 1 was not asked"),
    (another_head, "updates have entries", "round 3, client 0: the server saw another ledger: its entry"),
    (another_sequence, "updates have entries", "round 3, client 0: the server saw 99 entries, the report has 9"),
    (another_model, "updates have entries", "round 2, client 0: entry 4 is of another model"),
    (roster_resigned, "pinned keys", "client 1's key is another than the pinned one"),
    (round_left_out, "round log", "round 2 is in the report's log and was never completed"),
]


@pytest.mark.parametrize(
    ("forge", "check", "message"), RESIGNED, ids=[f"{forge.__name__}-{check}" for forge, check, _ in RESIGNED]
)
def test_a_forgery_with_the_servers_key_is_refuted(forge, check, message, world, honest, judge):
    verdict, checks = judge(forge(world, honest), world.roster)
    assert not verdict.holds
    assert checks[check].status == "fails"
    assert re.search(message, checks[check].detail), checks[check].detail


def test_an_interrupted_run_is_not_taken_for_a_complete_one(judge):
    world = record_world(status="interrupted")
    plain = world.report()
    assert judge(plain, world.roster)[0].holds
    _, checks = judge({**plain, "status": "completed", "reason": None}, world.roster)
    assert "closed the run as interrupted, and the report says completed" in checks["closing"].detail


def test_seeded_noise_is_not_taken_for_secure(judge):
    world = record_world(noise="seeded")
    plain = world.report()
    verdict, checks = judge(plain, world.roster)
    assert verdict.outcome == "simulation"
    assert checks["noise"].status == "not proven"
    assert "seeded noise protects nobody" in checks["noise"].detail
    _, checks = judge(changed(plain, "privacy.noise", "secure"), world.roster)
    assert "noise: seeded in the first record, secure in the report" in checks["first record"].detail
    resigned = edit_records(
        world, changed(plain, "privacy.noise", "secure"), lambda records: records[0].update(noise="secure")
    )
    _, checks = judge(resigned, world.roster)
    assert "the noise is seeded by the configuration, and secure in the report" in checks["configuration"].detail


def test_with_seeded_noise_a_round_done_again_has_one_entry(judge):
    world = record_world(noise="seeded")
    verdict, _ = judge(round_repeated(world, world.report()), world.roster)
    assert verdict.outcome == "simulation"


# --- with files of the clients --------------------------------------------------------------------------------------


def own_file(plain, client):
    return b"".join(map(line, entries(plain, client)))


def test_a_fork_is_shown_by_the_clients_own_file(world, honest, judge):
    """Client 1 and the server agree on a second version of entry 3, and both sign all again."""
    forked = copy.deepcopy(honest)
    kept = [payload(envelope) for envelope in entries(forked, 1)]
    kept[3]["time"] = "2026-02-03T04:05:07Z"
    forked["proof"]["ledgers"][1]["entries"] = chain(ENTRY, kept, world.keys[1])
    forked["proof"]["ledgers"][1]["statement"] = world.statement(1, entries(forked, 1))

    def heads(records):
        for record in records:
            for update in record.get("updates", ()):
                if update["client"] == 1:
                    update["head"] = sha256(line(entries(forked, 1)[update["sequence"] - 1])).hexdigest()

    forked = edit_records(world, forked, heads)
    assert judge(forked, world.roster)[0].holds
    verdict, checks = judge(forked, world.roster, {"mine.jsonl": own_file(honest, 1)})
    assert not verdict.holds
    assert "client 1: fork: there are two entries with the number 3" in checks["clients' own files"].detail


def test_a_tail_that_all_agreed_to_cut_off_is_shown_by_the_clients_own_file(world, honest, judge):
    cut = tail_cut_on_both_sides(world, honest)
    cut["proof"]["ledgers"][0]["statement"] = world.statement(0, entries(cut, 0))
    cut["round_log"][3].update(cohort=[1, 2, 3], completed=[1, 2])
    cut = world.closed({**world.claimed(cut["proof"]), "round_log": cut["round_log"]})
    assert judge(cut, world.roster)[0].holds
    verdict, checks = judge(cut, world.roster, {"mine.jsonl": own_file(honest, 0)})
    assert not verdict.holds
    assert "client 0: truncated: round 4 of this run is in mine.jsonl" in checks["clients' own files"].detail


def test_a_file_that_is_older_than_the_report_fails(world, honest, judge):
    older = b"".join(map(line, entries(honest, 1)[:3]))
    _, checks = judge(honest, world.roster, {"mine.jsonl": older})
    assert "client 1: mine.jsonl has 3 entries, and the report 7" in checks["clients' own files"].detail


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no entry"),
        (b"{}\n", "not an envelope"),
        (b"{", "its last line is torn"),
    ],
)
def test_a_file_that_is_no_ledger_fails(data, message, world, honest, judge):
    _, checks = judge(honest, world.roster, {"mine.jsonl": data})
    assert checks["clients' own files"].status == "fails"
    assert f"mine.jsonl: {message}" in checks["clients' own files"].detail


def test_a_file_of_a_stranger_or_a_damaged_one_fails(world, honest, judge):
    stranger = b"".join(map(line, chain(ENTRY, world.ledger(1), Identity.generate())))
    _, checks = judge(honest, world.roster, {"mine.jsonl": stranger})
    assert "which is of no client" in checks["clients' own files"].detail
    lines = own_file(honest, 1).splitlines(keepends=True)
    _, checks = judge(honest, world.roster, {"mine.jsonl": b"".join([lines[0], *lines[2:]])})
    assert "mine.jsonl of client 1: entry 1: it is in the place" in checks["clients' own files"].detail


def test_a_client_that_is_missing_is_shown_by_its_file(world, honest, judge):
    plain = copy.deepcopy(honest)
    client_missing(world, plain)
    _, checks = judge(plain, world.roster, {"mine.jsonl": own_file(honest, 2)})
    assert "client 2 is missing" in checks["clients' own files"].detail


# --- secret cohorts -------------------------------------------------------------------------------------------------


def test_a_record_that_names_a_cohort_voids_the_amplification(secret_world, judge):
    plain = secret_world.report()
    forged = edit_records(secret_world, plain, lambda records: of(records, "asked", 1)["cohort"].append(1))
    _, checks = judge(forged, secret_world.roster)
    assert "the accounting needs cohorts to be secret" in checks["updates have entries"].detail


def test_a_report_that_names_a_cohort_voids_the_amplification(secret_world, judge):
    plain = secret_world.report()
    plain["round_log"][1].update(cohort=[1], completed=[1], dropped=[])
    _, checks = judge(secret_world.closed(plain), secret_world.roster)
    assert "round 2: names a cohort that must be secret" in checks["round log"].detail


def test_a_client_without_a_reservation_needs_to_say_so(secret_world, judge):
    plain = secret_world.report()
    proof = plain["proof"]
    proof["ledgers"][1].update(entries=[], statement=None)
    _, checks = judge(secret_world.closed(secret_world.claimed(proof)), secret_world.roster)
    assert "client 1: no reservation for the run, and nothing signed" in checks["entries were asked for"].detail
    proof["ledgers"][1]["statement"] = secret_world.statement(1, [])
    verdict, _ = judge(secret_world.closed(secret_world.claimed(proof)), secret_world.roster)
    assert verdict.holds


def test_a_client_that_reserved_twice_or_by_rounds_is_named(secret_world, judge):
    twice = [secret_world.entry(1, number, "reserved") for number in (0, 3)]
    plain = secret_world.report()
    plain["proof"]["ledgers"][1]["entries"] = chain(ENTRY, twice, secret_world.keys[1])
    _, checks = judge(plain, secret_world.roster)
    assert "client 1: 2 reservations for one run, by entry 1" in checks["entries were asked for"].detail
    assert "client 1: entry 1 is of round 3" in checks["entries were asked for"].detail


def test_amplification_cannot_be_claimed_where_cohorts_are_known(judge):
    world = client_world("capped")
    plain = world.report()
    assert judge(plain, world.roster)[0].holds
    claimed = changed(plain, "privacy.sampling.scheme", "Poisson, clients")
    claimed["privacy"]["sampling"]["amplification"] = True
    _, checks = judge(world.closed(claimed), world.roster)
    assert "amplification by sampling is claimed" in checks["mechanism"].detail


class OfAnotherPackage(RecordLocal):
    """A mechanism that a package has registered, with the same unit, which the experiment does not ask for."""

    kind = "record/of-another-package"
    plan_kind = "of-another-package"

    def chosen(self, privacy):
        return False


def test_a_plan_of_another_mechanism_than_the_configuration_asks_for(world, judge, monkeypatch):
    monkeypatch.setitem(mechanisms._REGISTRY, OfAnotherPackage.kind, OfAnotherPackage())
    forged = World(plan=replace(world.plan, kind=OfAnotherPackage.plan_kind))
    verdict, checks = judge(forged.report(), forged.roster)
    assert not verdict.holds
    expected = "the mechanism is record by the configuration, and record/of-another-package in the plan"
    assert (checks["configuration"].status, checks["configuration"].detail) == ("fails", expected)


# --- what it cannot show --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forge", [accuracy, model_file])
def test_with_the_servers_key_measurements_can_be_forged_and_the_audit_says_so(forge, world, honest, judge):
    forged = resigned(world, honest, lambda plain: forge(world, plain))
    verdict, checks = judge(forged, world.roster)
    assert verdict.holds
    assert checks["measurements"].status == "not proven"


def test_without_pinned_keys_a_report_of_ones_own_making_is_not_told_apart_and_the_audit_says_so(judge):
    verdict, checks = judge(record_world().report(), None)
    assert verdict.holds
    assert checks["pinned keys"].status == "not proven"
    assert "--roster" in checks["pinned keys"].detail


def test_a_key_that_is_there_twice_is_refused(honest):
    text = json.dumps(honest)
    with pytest.raises(ReportError, match="has the key 'epsilon' twice"):
        read_report(text.replace('"epsilon": ', '"epsilon": 0.1, "epsilon": ', 1).encode())
