"""What the report says of encryption and secure aggregation, honest and forged."""

import copy
import json

import pytest

from fedtrain.audit import audit, read_report
from fedtrain.config import from_flat
from fedtrain.config.loading import config_digest
from tests.unit.audit.world import World, client_world, edit_records, record_world

ON = {"sealed": True, "secagg.enabled": True, "secagg.threshold": 3, "secagg.neighbours": 3, "secagg.bits": 16}


@pytest.fixture(scope="module")
def masked() -> World:
    """Give a federation that seals and sums in every round, as it is configured to."""
    return record_world(sealed=True, secagg=True, mute=((1, 2),), configured=ON)


@pytest.fixture(scope="module")
def summed(masked):
    """Give its report, to be copied before it is changed."""
    return masked.report()


def checked(plain, world):
    verdict = audit(read_report(json.dumps(plain).encode()), roster=world.roster)
    return verdict, {check.name: check for check in verdict.checks}


def sums(records):
    return [record["secagg"] for record in records if record["kind"] == "completed"]


def of_round(records, number, kind="completed"):
    return next(record for record in records if record["kind"] == kind and record["round"] == number)


def seen(records, number):
    """Let the server ask for single updates in the clear, and get them."""
    of_round(records, number, "asked").update(sealed=False, secagg=False)
    of_round(records, number).update(sealed=False, secagg=None)


def resigned(world, change):
    """Give the report that an honest server gives of a record that was changed."""
    plain = edit_records(world, world.report(), change)
    return world.closed(world.claimed(plain["proof"]))


def capped(**changes):
    return client_world("capped", **changes)


def configured(world, change, *, secagg=False, lost=False):
    """Give what a server signs of a run with another configuration, and with sums in one round if it wants."""
    plain = world.report()
    config = {**plain["config"], **change}

    def edit(records):
        records[0].update(config=config_digest(config))
        if lost and secagg:
            records.insert(1, records[1] | {"secagg": True})
        elif secagg:
            bits, members = config["transport.secagg.bits"] or 16, world.clients - 1
            of_round(records, 1, "asked").update(secagg=True)
            of_round(records, 1).update(
                secagg={"threshold": members, "neighbours": members, "bits": bits, "silent": []}
            )

    plain = edit_records(world, plain, edit)
    return world.closed({**world.claimed(plain["proof"]), "config": config})


LAYERS = {"sealed": True, "secagg": True}
HALF = {"rounds": 2, "status": "interrupted", "refused": (), "silent": ()}
SEALED = {"sealed": True, "configured": {"sealed": True, "secagg.enabled": False}}
SUMMED = {"sealed": True, "secagg": True, "mute": ((1, 0),)}


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (record_world(), "encrypted end to end in no round; the server saw single updates"),
        (record_world(**SEALED), "encrypted end to end in every round; the server saw single updates"),
        (client_world(sealed=True), "encrypted end to end in every round; the server saw single updates"),
        (
            client_world("capped", **SUMMED),
            "in every round; clients lost before their update was in the sum: 3, after: 1",
        ),
    ],
    ids=["neither", "sealed", "secret", "summed"],
)
def test_an_honest_transport_holds(world, message):
    verdict, checks = checked(world.report(), world)
    assert verdict.holds
    assert checks["transport"].status == "holds"
    assert checks["transport"].detail.endswith(message)


def test_what_was_configured_and_is_so_holds(masked, summed):
    verdict, checks = checked(summed, masked)
    assert verdict.holds
    assert checks["transport"].detail.startswith("by the server's record: encrypted end to end in every round; ")
    assert checks["updates have entries"].detail == (
        "13 updates, each settled in its client's ledger; the server saw 13 of them in a sum alone, and could not "
        "compare them"
    )


def test_a_round_that_was_otherwise_is_counted():
    world = record_world(sealed=True, secagg=True)
    plain = resigned(world, lambda records: seen(records, 3))
    verdict, checks = checked(plain, world)
    assert verdict.holds
    assert "in 3 of 4 rounds; the server saw the sum of the updates alone in 3 of 4" in checks["transport"].detail


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "rounds asked and not completed: 1, of them to be encrypted: 1, to be summed: 1"),
        ({"secagg": False}, "rounds asked and not completed: 1, of them to be encrypted: 1, to be summed: 0"),
        ({"sealed": False}, "rounds asked and not completed: 1, of them to be encrypted: 0, to be summed: 1"),
    ],
)
def test_a_round_that_was_lost_is_told_as_it_was_asked(change, message):
    world = record_world(sealed=True, secagg=True)
    plain = resigned(world, lambda records: records.insert(1, records[1] | change))
    _, checks = checked(plain, world)
    assert checks["transport"].status == "holds"
    assert checks["transport"].detail.endswith(message)


# --- without any key ------------------------------------------------------------------------------------------------

IN_REPORT = [
    ({"sealed": False}, "round 1: sealed is false in the report, and true by the record"),
    ({"secagg": None}, "round 1: secagg is false in the report, and true by the record"),
    ({"threshold": 2}, "round 1: secagg.threshold is 2 in the report, and 3 by the record"),
    ({"neighbours": 2}, "round 1: secagg.neighbours is 2 in the report, and 3 by the record"),
    ({"bits": 20}, "round 1: secagg.bits is 20 in the report, and 16 by the record"),
    ({"lost_unmasking": 0}, "round 1: secagg.lost_unmasking is 0 in the report, and 1 by the record"),
]


@pytest.mark.parametrize(("change", "message"), IN_REPORT, ids=[next(iter(change)) for change, _ in IN_REPORT])
def test_a_round_that_is_told_otherwise_is_refuted(change, message, masked, summed):
    plain = copy.deepcopy(summed)
    entry = plain["round_log"][0]
    (entry if change.keys() <= entry.keys() else entry["secagg"]).update(change)
    verdict, checks = checked(plain, masked)
    assert not verdict.holds
    assert checks["transport"].status == "fails"
    assert checks["transport"].detail == message


def test_lost_clients_are_as_many_as_were_dropped(masked, summed):
    plain = copy.deepcopy(summed)
    plain["round_log"][1].update(dropped=[], cohort=[0, 2, 3], completed=[0, 2, 3])
    plain["round_log"][1]["secagg"].update(lost_masking=0, neighbours=2)
    _, checks = checked(plain, masked)
    assert "round 2: secagg.lost_masking is 0 in the report, and 1 by the record" in checks["transport"].detail


def test_a_transport_that_was_not_there_is_not_claimed(world, honest):
    plain = copy.deepcopy(honest)
    for entry in plain["round_log"]:
        entry["sealed"] = True
        lost = {"lost_masking": len(entry["dropped"]), "lost_unmasking": 0}
        entry["secagg"] = {"threshold": 3, "neighbours": 3, "bits": 16, **lost}
    _, checks = checked(plain, world)
    assert checks["transport"].detail.startswith(
        "round 1: sealed is true in the report, and false by the record; "
        "round 1: secagg is true in the report, and false by the record; "
    )


# --- with the server's key ------------------------------------------------------------------------------------------

IN_RECORD = [
    ({"silent": [2, 2]}, "round 1: a client is named twice among those that did not answer the unmasking"),
    ({"silent": [9]}, "round 1: [9] did not answer the unmasking, and are not in the sum"),
    ({"silent": [1, 2]}, "round 1: 2 clients answered the unmasking, and the threshold is 3"),
    ({"threshold": 2}, "round 1: secagg.threshold is 2 by the record, and 3 by the configuration, in a cohort of 4"),
    ({"neighbours": 4}, "round 1: secagg.neighbours is 4 by the record, and 3 by the configuration, in a cohort of 4"),
    ({"bits": 8}, "round 1: secagg.bits is 8 by the record, and 16 by the configuration, in a cohort of 4"),
]


@pytest.mark.parametrize(("change", "message"), IN_RECORD)
def test_a_sum_that_the_protocol_cannot_give_is_refuted(change, message, masked, summed):
    forged = edit_records(masked, summed, lambda records: of_round(records, 1)["secagg"].update(change))
    _, checks = checked(forged, masked)
    assert checks["transport"].status == "fails"
    assert message in checks["transport"].detail


@pytest.mark.parametrize("change", [{"threshold": 2}, {"threshold": 4}, {"neighbours": 2}, {"bits": 20}])
def test_what_is_not_configured_has_its_default(change):
    world = record_world(secagg=True)
    plain = world.report()
    assert checked(plain, world)[0].holds
    forged = edit_records(world, plain, lambda records: of_round(records, 1)["secagg"].update(change))
    ((name, value),) = change.items()
    usual = {"threshold": 3, "neighbours": 3, "bits": 16}[name]
    message = f"round 1: secagg.{name} is {value} by the record, and {usual} by the configuration"
    assert message in checked(forged, world)[1]["transport"].detail


def test_parameters_with_which_the_server_alone_could_unmask_are_refuted():
    world = record_world(secagg=True, configured={"secagg.threshold": 2})
    plain = world.report()
    forged = edit_records(world, plain, lambda records: [sum_.update(threshold=2) for sum_ in sums(records)])
    detail = checked(forged, world)[1]["transport"].detail
    assert "updates cannot be summed with this configuration: a threshold of 2 cannot be used" in detail
    assert "round 1: a threshold of 2 cannot be used where a secret has 4 holders" in detail


def test_who_was_asked_is_in_the_sum_or_was_dropped(masked, summed):
    forged = edit_records(masked, summed, lambda records: of_round(records, 2).update(dropped=[]))
    _, checks = checked(forged, masked)
    assert "round 2: nothing says whether [1] of the cohort are in the sum" in checks["transport"].detail


def test_a_sum_of_one_hides_nothing(masked, summed):
    forged = edit_records(masked, summed, lambda records: of_round(records, 4).update(updates=[]))
    _, checks = checked(forged, masked)
    assert "round 4: the sum is of 0 updates, and hides none" in checks["transport"].detail


def test_secret_cohorts_are_never_summed():
    world = client_world()
    forged = edit_records(
        world,
        world.report(),
        lambda records: of_round(records, 1).update(secagg={"threshold": 2, "neighbours": 2, "bits": 16, "silent": []}),
    )
    _, checks = checked(forged, world)
    assert "round 1: those in a sum know each other, and cohorts must be secret" in checks["transport"].detail


@pytest.mark.parametrize(
    ("configured", "changes", "message"),
    [
        (
            {"sealed": True},
            {"secagg": True},
            "round 1: transport.sealed = true, and the record says that it was not so",
        ),
        ({"sealed": False}, {"sealed": True}, "round 1: transport.sealed = false, and the record says that it was not"),
        ({"secagg.enabled": True}, {"sealed": True}, "round 1: transport.secagg.enabled = true, and the record says"),
        ({"secagg.enabled": False}, {"secagg": True}, "round 1: transport.secagg.enabled = false, and the record says"),
    ],
)
def test_what_was_configured_must_be_so(configured, changes, message):
    world = record_world(configured=configured, **changes)
    verdict, checks = checked(world.report(), world)
    assert not verdict.holds
    assert [check.name for check in verdict.of("fails")] == ["transport"]
    assert message in checks["transport"].detail


def test_one_round_that_was_not_as_configured_is_named(masked, summed):
    forged = edit_records(masked, summed, lambda records: seen(records, 3))
    _, checks = checked(forged, masked)
    assert "round 3: transport.sealed = true, and the record says that it was not so" in checks["transport"].detail
    assert "round 3: transport.secagg.enabled = true, and the record" in checks["transport"].detail


OTHERWISE = [
    ({"sealed": False}, {}, "round 2: it was not to be sealed, and was completed otherwise"),
    ({"secagg": False}, {}, "round 2: it was not to be summed, and was completed otherwise"),
    ({}, {"sealed": False}, "round 2: it was to be sealed, and was completed otherwise"),
    ({}, {"secagg": None}, "round 2: it was to be summed, and was completed otherwise"),
]


@pytest.mark.parametrize(("asked", "completed", "message"), OTHERWISE)
def test_a_round_is_completed_as_it_was_asked(asked, completed, message):
    world = record_world(sealed=True, secagg=True)

    def change(records):
        of_round(records, 2, "asked").update(asked)
        of_round(records, 2).update(completed)

    verdict, checks = checked(resigned(world, change), world)
    assert [check.name for check in verdict.of("fails")] == ["transport"]
    assert checks["transport"].detail == message


def test_what_was_completed_without_being_asked_is_for_another_check(masked, summed):
    forged = edit_records(masked, summed, lambda records: records.remove(of_round(records, 1, "asked")))
    _, checks = checked(forged, masked)
    assert checks["rounds"].status == "fails"
    assert checks["transport"].status == "holds"


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (record_world, {"server.strategy": "Krum"}, 'server.strategy = "Krum" needs single updates'),
        (record_world, {"server.strategy": "FedMedian"}, 'server.strategy = "FedMedian" needs single updates'),
        (record_world, {"transport.secagg.max_weight": 100}, "how many records a client has would be an access"),
        (capped, {"transport.secagg.bound": 0.5}, "where the clipping norm is the bound"),
        (capped, {"transport.secagg.bits": 2}, "rounding 8 parameters can move an update by more than"),
        (capped, {"transport.secagg.bits": 7}, "noise of 2 times the clipping norm, does not fit into 1 bytes"),
        (record_world, {"federation.cohort": 1}, "the sum of one update is that update"),
    ],
)
@pytest.mark.parametrize("lost", [False, True], ids=["completed", "lost"])
def test_sums_that_no_honest_server_makes_are_refuted(make, change, message, lost):
    """The configuration does not say whether updates are summed, and the server's record does."""
    world = make()
    assert "transport" not in {check.name for check in checked(configured(world, change), world)[0].of("fails")}
    forged = configured(world, change, lost=lost, secagg=True)
    verdict, checks = checked(forged, world)
    assert "transport" in {check.name for check in verdict.of("fails")}
    assert "updates cannot be summed with this configuration: " in checks["transport"].detail
    assert message in checks["transport"].detail


@pytest.mark.parametrize("key", ["sealed", "secagg.enabled", "secagg.threshold", "secagg.neighbours", "secagg.bits"])
def test_what_is_missing_from_the_configuration_is_not_taken_for_unset(key, masked, summed):
    config = {name: value for name, value in summed["config"].items() if name != f"transport.{key}"}
    assert from_flat(config)
    forged = edit_records(
        masked, {**summed, "config": config}, lambda records: records[0].update(config=config_digest(config))
    )
    _, checks = checked(forged, masked)
    assert checks["transport"].detail == f"transport.{key} is missing from the configuration"


def test_a_configuration_that_cannot_be_read_says_nothing(masked, summed):
    forged = masked.closed({**summed, "config": {**summed["config"], "transport.sealed": "perhaps"}})
    _, checks = checked(forged, masked)
    assert checks["transport"].detail.startswith("the configuration says nothing of the transport: transport.sealed")


# --- the words ------------------------------------------------------------------------------------------------------


def adversary(plain, who):
    return next(entry for entry in plain["privacy"]["adversaries"] if entry["who"].startswith(who))


RELAY = "whoever relays messages"


@pytest.mark.parametrize("make", [record_world, capped])
def test_the_server_sees_less_of_a_run_that_is_summed_throughout(make):
    world = make(secagg=True)
    plain = world.report()
    told = adversary(plain, "the server")
    assert told["sees"].startswith("the sum of the ")
    assert told["bounded"] is (world.plan.spec.unit == "record")
    assert checked(plain, world)[0].holds
    single = make().report()
    assert adversary(single, "the server")["sees"].startswith("every ")
    assert adversary(single, "the server")["bounded"] is told["bounded"]
    plain["privacy"]["adversaries"] = single["privacy"]["adversaries"]
    assert "privacy.adversaries does not say" in checked(world.closed(plain), world)[1]["words"].detail


@pytest.mark.parametrize(
    "change",
    [
        lambda records: seen(records, 3),
        lambda records: records.insert(1, records[1] | {"secagg": False}),  # asked, and never completed
    ],
    ids=["seen once", "asked for once"],
)
def test_the_server_sees_more_where_it_asked_for_it_once(change):
    world = capped(sealed=True, secagg=True)
    plain = resigned(world, change)
    assert adversary(plain, "the server")["sees"] == "every clipped update of every client"
    server, client, *_ = plain["privacy"]["trusted"]
    assert server == "The server, to clip, to add the noise, and to keep updates and cohorts to itself."
    assert "to clip its update" in client
    assert "The server sees each client's update and is trusted" in plain["privacy"]["statement"]
    assert checked(plain, world)[1]["words"].status == "holds"


@pytest.mark.parametrize(
    ("world", "change"),
    [
        (capped(**LAYERS), lambda records: records.insert(1, dict(records[1]))),
        (record_world(**LAYERS), lambda records: records.insert(1, dict(records[1]))),
        (capped(**LAYERS, **HALF), lambda records: None),
        (capped(**LAYERS, **HALF), lambda records: records.insert(-1, of_round(records, 2, "asked") | {"round": 3})),
    ],
    ids=["lost", "lost in record privacy", "unfinished", "lost for good"],
)
def test_a_run_that_was_interrupted_has_the_view_that_was_asked_for(world, change):
    plain = resigned(world, change)
    assert adversary(plain, "the server")["sees"].startswith("the sum of the ")
    assert adversary(plain, RELAY)["sees"].startswith("who sends how much to whom")
    assert checked(plain, world)[0].holds


def test_client_privacy_trusts_each_client_to_clip_what_the_server_cannot():
    plain = client_world("capped", sealed=True, secagg=True).report()
    server, client = plain["privacy"]["trusted"]
    assert server == "The server, to add the noise, and to keep the sums, and whatever they tell, to itself."
    assert client.startswith("Each client's own program, to clip its update, and to train on nothing but")
    assert client.endswith("one that does not clip harms its own records alone.")
    assert (
        "Where it follows the protocol, the server sees the sum of the clients' updates of"
        in plain["privacy"]["statement"]
    )
    assert any(text.startswith("What a sum of updates tells the server") for text in plain["privacy"]["not_covered"])
    record = record_world(sealed=True, secagg=True).report()
    assert not any(text.startswith("What a sum") for text in record["privacy"]["not_covered"])
    assert "that updates are summed bounds nothing" in adversary(record, "the server")["by"]


@pytest.mark.parametrize(
    ("make", "changes", "bounded", "sees"),
    [
        (record_world, {"sealed": False}, True, "what the server sees"),
        (record_world, {"sealed": True}, True, "who sends how much"),
        (capped, {"sealed": False}, False, "what the server sees"),
        (capped, {"sealed": True}, True, "who sends how much"),
        (client_world, {"sealed": True}, False, "who sends how much"),
        (capped, {"sealed": True, "noise": "seeded"}, False, "who sends"),
    ],
    ids=["record open", "record", "capped open", "capped", "secret", "seeded"],
)
def test_who_relays_messages_sees_what_is_not_sealed(make, changes, bounded, sees):
    world = make(**changes)
    plain = world.report()
    told = adversary(plain, RELAY)
    assert told["sees"].startswith(sees)
    assert told["bounded"] is bounded
    relied = [text for text in plain["privacy"]["trusted"] if text.startswith("Whoever relays messages")]
    assert bool(relied) is (world.plan.spec.unit == "client" and (not world.sealed or world.secret))
    assert not checked(plain, world)[0].of("fails")


def test_what_the_server_cannot_clip_is_named_with_the_noise():
    for secagg, message in ((True, "and that each client clipped: clients"), (False, "and clipped: clients")):
        world = client_world("capped", secagg=secagg)
        assert message in checked(world.report(), world)[1]["noise"].detail
