"""Reports of runs that ask clients who they are when they are first drawn: nobody who had a part can be left out."""

import copy
from dataclasses import replace

import pytest

from fedtrain.config import from_flat
from fedtrain.crypto import Identity, SignedEnvelope
from fedtrain.errors import PrivacySpecError
from fedtrain.ledger import read_records
from fedtrain.privacy import PrivacyPlan
from fedtrain.report.claim import derive_claim
from fedtrain.trust import Roster
from tests.unit.audit.world import World, client_world, edit_records, line, payload, spec

LATE = 2  # the client that is first drawn in round 2


class Drawn(World):
    """A federation of five clients, of which three are drawn."""

    def cohort(self, number):
        return [0, 1] if number == 1 else [0, 1, LATE]

    def records(self, ledgers):
        known = set()
        for record in super().records(ledgers):
            if record["kind"] == "opened":
                record["roster"] = Roster(server=self.server.public, clients={}).digest
            if record["kind"] == "asked" and (new := set(record["cohort"]) - known):
                known |= new
                yield self.enrolled(*sorted(new))
            yield record

    def enrolled(self, *clients):
        keys = [{"client": client, "key": self.keys[client].public.encode()} for client in clients]
        return {"kind": "enrolled", "time": "2026-02-03T04:05:06Z", "keys": keys}


@pytest.fixture(scope="module")
def drawn():
    nobody = {"lost": (), "refused": ((3, LATE),), "silent": ()}
    keys = {client: Identity.generate() for client in (0, 1, LATE)}
    return Drawn(plan=PrivacyPlan(spec=spec(), noise_multiplier=2.0), clients=5, keys=keys, **nobody)


@pytest.fixture(scope="module")
def told(drawn):
    return drawn.report()


def test_an_honest_report_holds_and_says_who_is_not_in_it(drawn, told, judge):
    verdict, checks = judge(told, drawn.roster)
    assert [f"{check.name}: {check.detail}" for check in verdict.of("fails")] == []
    assert checks["enrollment"].status == "not proven"
    assert "3 clients are accounted for, and 2 more of the federation have no key here" in checks["enrollment"].detail


def test_where_all_have_a_part_nothing_is_open(judge):
    world = Drawn(plan=PrivacyPlan(spec=spec(), noise_multiplier=2.0), clients=3, lost=(), refused=(), silent=())
    _, checks = judge(world.report(), world.roster)
    assert checks["enrollment"].status == "holds"


def roster_without(world, client):
    return roster_of(world, *(each for each in world.keys if each != client))


def roster_of(world, *clients):
    return Roster(server=world.server.public, clients={client: world.keys[client].public for client in clients})


def left_out(world, plain):
    """Leave the ledger, the key and the charges of a drawn client out, and sign the claim that follows."""
    plain = copy.deepcopy(plain)
    proof, privacy = plain["proof"], plain["privacy"]
    proof["ledgers"] = [ledger for ledger in proof["ledgers"] if ledger["client"] != LATE]
    proof["roster"] = roster_without(world, LATE).as_json()
    for name in ("clients", "events"):
        privacy[name] = [each for each in privacy[name] if each["client"] != LATE]
    privacy["curve"] = []
    return world.closed(plain)


def ledger_left_out(world, plain):
    plain = copy.deepcopy(plain)
    plain["proof"]["ledgers"] = [ledger for ledger in plain["proof"]["ledgers"] if ledger["client"] != LATE]
    return world.closed(plain)


def never_enrolled(world, plain):
    """Leave out where the client was enrolled, too."""

    def edit(records):
        records[:] = [each for each in records if each["kind"] != "enrolled" or each["keys"][0]["client"] != LATE]

    return edit_records(world, left_out(world, plain), edit)


def unused(world, plain):
    """Say of each round that the client did not answer: no update of it was used, and it was only asked."""

    def edit(records):
        for record in records:
            if record["kind"] == "completed":
                record["updates"] = [each for each in record["updates"] if each["client"] != LATE]

    return edit_records(world, never_enrolled(world, plain), edit)


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (left_out, "client 2 is named by the server's record, and has no key in the roster"),
        (ledger_left_out, "client 2 is named by the server's record, and has no ledger"),
        (never_enrolled, "client 2 is named by the server's record, and has no key in the roster"),
        (unused, "client 2 is named by the server's record, and has no key in the roster"),
    ],
)
def test_a_report_that_leaves_a_drawn_client_out_is_refuted(forge, message, drawn, told, judge):
    forged = forge(drawn, told)
    for pinned in (None, roster_without(drawn, LATE)):
        if forge is ledger_left_out and pinned is not None:
            continue
        verdict, checks = judge(forged, pinned)
        assert not verdict.holds
        assert checks["enrollment"].status == "fails"
        assert message in checks["enrollment"].detail


def nowhere(world, plain):
    """Leave the client out of everything that the server signs: only who has its key or its file can tell."""

    def edit(records):
        for record in records:
            if record["kind"] == "asked":
                record["cohort"] = [client for client in record["cohort"] if client != LATE]
            if record["kind"] == "completed":
                record["dropped"] = [each for each in record["dropped"] if each["client"] != LATE]

    forged = unused(world, plain)
    for entry in forged["round_log"]:
        for name in ("cohort", "completed"):
            entry[name] = [client for client in entry[name] if client != LATE]
        entry["dropped"] = [each for each in entry["dropped"] if each["client"] != LATE]
    return edit_records(world, forged, edit)


def test_a_client_that_nothing_names_is_missed_by_who_pins_its_key(drawn, told, judge):
    verdict, checks = judge(nowhere(drawn, told), drawn.roster)
    assert not verdict.holds
    assert "client 2 is missing from the report's roster" in checks["pinned keys"].detail
    assert "client 2 has no ledger" in checks["clients' ledgers"].detail


def test_a_client_that_nothing_names_is_missed_by_who_has_its_file(drawn, told, judge):
    forged = nowhere(drawn, told)
    own = b"".join(line(entry) for entry in told["proof"]["ledgers"][LATE]["entries"])
    verdict, checks = judge(forged, roster_without(drawn, LATE), {"own.jsonl": own})
    assert not verdict.holds
    assert "which is of no client" in checks["clients' own files"].detail
    _, checks = judge(forged, roster_without(drawn, LATE))
    assert checks["enrollment"].status == "not proven"  # that it had no part is the server's word


def test_a_statement_that_is_left_out_is_missed(drawn, told, judge):
    plain = copy.deepcopy(told)
    plain["proof"]["ledgers"][LATE]["statement"] = None
    verdict, checks = judge(drawn.closed(plain), drawn.roster)
    assert not verdict.holds
    assert "client 2: no statement says that its ledger is all of it" in checks["clients' statements"].detail


def twice(world, records):
    records.insert(-1, world.enrolled(LATE))


def with_another_key(world, records):
    late = next(each for each in records if each["kind"] == "enrolled" and each["keys"][0]["client"] == LATE)
    late["keys"][0]["key"] = Identity.generate().public.encode()


def too_late(world, records):
    place = next(place for place, each in enumerate(records) if each["kind"] == "enrolled" and place > 1)
    records.insert(place + 1, records.pop(place))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (twice, "client 2 was enrolled twice"),
        (with_another_key, "client 2 was enrolled with another key than that of the roster"),
        (too_late, "round 2: client 2 was asked before its key was pinned"),
    ],
)
def test_an_enrollment_that_is_none_is_refuted(edit, message, drawn, told, judge):
    verdict, checks = judge(edit_records(drawn, told, lambda records: edit(drawn, records)), drawn.roster)
    assert not verdict.holds
    assert message in checks["enrollment"].detail


def test_a_key_that_is_none_does_not_verify(drawn, told, judge):
    def edit(records):
        next(each for each in records if each["kind"] == "enrolled")["keys"][0]["key"] = "AAAA"

    verdict, checks = judge(edit_records(drawn, told, edit), drawn.roster)
    assert not verdict.holds
    assert "the payload is malformed" in checks["server's record"].detail


def test_another_roster_than_the_one_of_the_opening_is_refuted(drawn, told, judge):
    def edit(records):
        records[0]["roster"] = drawn.roster.digest

    verdict, checks = judge(edit_records(drawn, told, edit), drawn.roster)
    assert not verdict.holds
    assert "roster digest" in checks["first record"].detail


def test_where_cohorts_are_secret_nobody_is_enrolled_when_drawn(judge):
    world = client_world()
    plain = world.report()

    def edit(records):
        keys = [{"client": 1, "key": world.keys[1].public.encode()}]
        records[0]["roster"] = roster_without(world, 1).digest
        records.insert(1, {"kind": "enrolled", "time": records[0]["time"], "keys": keys})

    verdict, checks = judge(edit_records(world, plain, edit), world.roster)
    assert not verdict.holds
    assert "the accounting needs cohorts to be secret" in checks["enrollment"].detail


@pytest.mark.parametrize("change", [{"sealed": True}, {"secagg": True}], ids=["sealed", "summed"])
def test_with_a_session_nobody_is_enrolled_when_drawn(change, drawn, told, judge):
    def edit(records):
        for record in records:
            if record["kind"] == "asked":
                record.update(change)

    verdict, checks = judge(edit_records(drawn, told, edit), drawn.roster)
    assert not verdict.holds
    assert checks["enrollment"].status == "fails"
    assert "sealed or summed, as in a deployment: a session begins with all keys" in checks["enrollment"].detail


def test_either_all_clients_are_enrolled_when_drawn_or_none(drawn, told, judge):
    def edit(records):
        records[0]["roster"] = roster_of(drawn, 0).digest
        first = next(each for each in records if each["kind"] == "enrolled")
        first["keys"] = [each for each in first["keys"] if each["client"] != 0]

    verdict, checks = judge(edit_records(drawn, told, edit), drawn.roster)
    assert not verdict.holds
    assert "client 0 has a key that no record pins" in checks["enrollment"].detail


def invented(world, plain):
    """Put clients that the federation does not have in the place of those that are not here."""
    plain = copy.deepcopy(plain)
    proof = plain["proof"]
    for number in (7, 8):
        world.keys[number] = Identity.generate()
        proof["roster"]["clients"][str(number)] = world.keys[number].public.encode()
        proof["ledgers"].append({**copy.deepcopy(proof["ledgers"][0]), "client": number, "entries": []})
    return plain


def test_a_client_that_the_federation_does_not_have_stands_for_none_of_it(drawn, told, judge):
    world = replace(drawn, keys=dict(drawn.keys))
    forged = invented(world, told)

    def edit(records):
        records.insert(-1, world.enrolled(7, 8))

    verdict, checks = judge(edit_records(world, forged, edit), None)
    assert not verdict.holds
    assert checks["enrollment"].status == "fails"
    assert "client 7 is none of the federation, which numbers its 5 clients from 0" in checks["enrollment"].detail


def test_a_federation_has_no_more_clients_than_its_record_says(drawn, told, judge):
    def edit(records):
        records[0]["clients"] = 2

    verdict, checks = judge(edit_records(drawn, told, edit), drawn.roster)
    assert not verdict.holds
    assert "3 clients have a key or are named, and the federation has 2" in checks["enrollment"].detail


def test_no_claim_is_derived_where_the_record_names_a_client_without_a_key(drawn, told):
    envelopes = [SignedEnvelope.from_json(envelope) for envelope in told["proof"]["record"]]
    records = read_records(envelopes, drawn.server.public)
    ledgers = {ledger["client"]: drawn.known(**ledger) for ledger in told["proof"]["ledgers"]}
    assert derive_claim(from_flat(drawn.config), drawn.roster, records, ledgers, rounds=None).epsilon > 0
    with pytest.raises(PrivacySpecError, match="the record names client 2, and the roster has no key of it"):
        derive_claim(from_flat(drawn.config), roster_without(drawn, LATE), records, ledgers, rounds=None)
    assert [payload(envelope)["kind"] for envelope in told["proof"]["record"]].count("enrolled") == 2
