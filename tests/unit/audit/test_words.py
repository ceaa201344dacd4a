"""Words, configurations and figures that do not follow from the signed records.

All forgeries are made with the server's key, and those of the sources of noise and of units with the client's key as
well where that is said.
"""

import copy
import re
from hashlib import sha256

import pytest

from fedtrain.config.loading import config_digest
from fedtrain.ledger.entry import PAYLOAD_TYPE
from fedtrain.privacy import PrivacyPlan
from fedtrain.report import wording
from fedtrain.report.wording import Transport
from tests.unit.audit.world import (
    World,
    chain,
    changed,
    client_world,
    edit_records,
    line,
    parts,
    payload,
    record_world,
    spec,
)


def reconfigured(world, plain, **config):
    """Change the configuration, and sign the first record again."""
    forged = {**plain, "config": {key: value for key, value in (plain["config"] | config).items() if value is not None}}
    return edit_records(world, forged, lambda records: records[0].update(config=config_digest(forged["config"])))


# --- words ----------------------------------------------------------------------------------------------------------

NOTHING_SAID = Transport(sealed=False, summed=False, only_sums=False)

EVERYONE = {"who": "everyone", "sees": "all", "bounded": True, "by": "epsilon"}

WORDS = {
    "adversaries": [EVERYONE],
    "trusted": [],
    "composition": "For ten years of runs.",
    "random_source": "an AES-256-CTR key stream with a key from the operating system",
    "statement": "This run is (0.1, 1e-9)-differentially private.",
    "accesses_not_covered": [],
    "not_covered": [],
    "sampling.reason": "A hardware enclave draws.",
}


@pytest.mark.parametrize(
    "make", [record_world, lambda: client_world("capped", noise="seeded")], ids=["record", "client"]
)
@pytest.mark.parametrize("name", WORDS)
def test_words_that_do_not_follow_are_refuted(name, make, judge):
    world = make()
    forged = world.closed(changed(world.report(), f"privacy.{name}", WORDS[name]))
    _, checks = judge(forged, world.roster)
    assert f"privacy.{name.split('.')[0]} does not say what follows" in checks["words"].detail


def test_a_server_that_is_trusted_is_not_told_to_be_bounded(judge):
    world = client_world()
    plain = world.report()
    plain["privacy"]["adversaries"] = parts(wording.adversaries(record_world().plan, "secure", NOTHING_SAID))
    _, checks = judge(world.closed(plain), world.roster)
    assert "privacy.adversaries does not say" in checks["words"].detail


@pytest.mark.parametrize("change", [{"amplification": False}, {"scheme": "Poisson, records", "amplification": False}])
def test_sampling_that_does_not_follow_is_refuted(change, world, honest, judge):
    plain = copy.deepcopy(honest)
    plain["privacy"]["sampling"].update(change)
    _, checks = judge(world.closed(plain), world.roster)
    assert "privacy.sampling does not say" in checks["words"].detail


def test_with_secure_noise_nothing_is_counted_from_the_records(world, honest, judge):
    plain = copy.deepcopy(honest)
    plain["data"].update(train_records=400, histogram=[[50, 50]] * 4, owners=["a", "b", "c", "d"])
    _, checks = judge(world.closed(plain), world.roster)
    for name in ("data.train_records", "data.histogram", "data.owners"):
        assert f"{name} is read directly from the records" in checks["words"].detail
    seeded = record_world(noise="seeded")
    plain = seeded.report()
    assert plain["data"]["histogram"] is not None
    assert judge(plain, seeded.roster)[0].outcome == "simulation"


def test_a_note_that_no_accountant_gave_is_refuted(world, honest, judge):
    forged = world.closed(changed(honest, "privacy.accountants.0.note", "verified by an institute"))
    _, checks = judge(forged, world.roster)
    assert "the note of the claim is not what dp-accounting PLD" in checks["accountants"].detail


# --- the configuration ----------------------------------------------------------------------------------------------

SCHEMED = {
    "data.source": "csv",
    "data.path": "people.csv",
    "data.test_fraction": 0.2,
    "data.schema_file": "schema.toml",
    "data.schema_digest": "0" * 64,
}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"privacy.epsilon": 0.1}, "epsilon is 0.1 by the configuration, and 20.0 in the plan"),
        ({"privacy.delta": 1e-9}, "delta is 1e-09 by the configuration, and 1e-05 in the plan"),
        ({"privacy.clip_norm": 0.001}, "clip_norm is 0.001 by the configuration, and 1.0 in the plan"),
        ({"privacy.sampling_rate": 0.001}, "sampling_rate is 0.001 by the configuration, and 0.25 in the plan"),
        ({"privacy.noise_multiplier": 100.0}, "the noise multiplier is 100.0 by the configuration, and 2.0 in the rep"),
        ({"training.local_steps": 1}, "steps_per_round is 1 by the configuration, and 3 in the plan"),
        ({"privacy.tuning": "none at all"}, "the tuning is none at all by the configuration"),
        (SCHEMED, f"data.schema_digest is {'0' * 64} by the configuration, and None in the report"),
        ({"name": "Another run"}, "the name is Another run by the configuration, and An honest run in the report"),
        ({"federation.clients": 1000}, "there are 1000 clients by the configuration, and 4 by data.clients"),
        ({"federation.clients": 1000}, "there are 1000 clients by the configuration, and 4 by the first record"),
        ({"privacy.mode": "none"}, "the configuration gives no plan: an experiment without privacy guarantees nothing"),
        ({"privacy.mode": None}, "privacy.mode is missing from the configuration; the configuration gives no plan"),
        ({"privacy.noise": None}, "privacy.noise is missing from the configuration; the noise is seeded by the conf"),
        ({"privacy.epsilon": "small"}, "the configuration gives no plan: privacy.epsilon"),
        ({"privacy.sampling_rate": 1e-320}, "the configuration gives no plan"),
        ({"privacy.secret": 1}, "the configuration gives no plan: unknown key privacy.secret"),
    ],
)
def test_a_configuration_that_gives_another_plan_is_refuted(config, message, world, honest, judge):
    if config == {"privacy.sampling_rate": 1e-320}:
        config = {**config, "training.local_steps": "", "training.local_epochs": 1.0}
    verdict, checks = judge(reconfigured(world, honest, **config), world.roster)
    assert not verdict.holds
    assert checks["configuration"].status == "fails"
    assert message in checks["configuration"].detail


def test_a_million_clients_do_not_make_delta_small(judge):
    world = client_world("capped")
    forged = copy.deepcopy(world.report())
    forged["data"].update(clients=10**6)
    forged = edit_records(world, forged, lambda records: records[0].update(clients=10**6))
    _, checks = judge(forged, world.roster)
    assert "there are 4 clients by the configuration, and 1000000 by data.clients" in checks["configuration"].detail
    config = {"federation.clients": 10**6}
    _, checks = judge(reconfigured(world, forged, **config), world.roster)
    assert "there are 1000000 clients by the configuration, and 4 by the plan's population" in (
        checks["configuration"].detail
    )
    assert "the plan protects 4 clients, and the configuration has 1000000" in checks["delta"].detail
    _, checks = judge(reconfigured(world, forged, **{"federation.clients": "many"}), world.roster)
    assert "the plan protects 4 clients, and the configuration has None" in checks["delta"].detail


def test_fewer_clients_than_there_are_keys_are_refuted(world, honest, judge):
    forged = copy.deepcopy(honest)
    forged["data"].update(clients=3)
    forged = reconfigured(world, forged, **{"federation.clients": 3, "federation.cohort": 3})
    _, checks = judge(forged, world.roster)
    assert "there are 3 clients by the configuration, and 4 in the roster" in checks["configuration"].detail


def test_a_clients_own_budget_is_the_one_that_it_signed(world, honest, judge):
    forged = world.closed(changed(honest, "privacy.clients.1.budget", 1e6))
    _, checks = judge(forged, world.roster)
    assert checks["budget"].detail == "client 1: its own budget is 1000000.0 in the report, and it signed 50.0"


def test_a_site_is_called_as_it_signed_and_cannot_be_given_another_name(world, honest, judge):
    plain = copy.deepcopy(honest)
    for ledger, name in zip(plain["proof"]["ledgers"], ("North", "South"), strict=False):
        ledger["statement"] = world.statement(ledger["client"], ledger["entries"], name=name)
    first, second = ({"client": client, "name": name} for client, name in enumerate(("North", "South")))
    plain["data"]["sites"] = [first, second]
    assert judge(world.closed(plain), world.roster)[0].outcome == "holds"
    for forged, message in (
        (
            [first | {"name": "South"}, second | {"name": "North"}],
            "client 0 is called 'South' in the report, and signed 'North'",
        ),
        ([second], "client 0 is called None in the report, and signed 'North'"),
        ([first, second, {"client": 2, "name": "West"}], "client 2 is called 'West' in the report, and signed None"),
    ):
        plain["data"]["sites"] = forged
        verdict, checks = judge(world.closed(plain), world.roster)
        assert verdict.outcome == "refuted"
        assert message in checks["clients"].detail


def test_a_statement_of_the_operator_that_was_edited_is_refuted(world, honest, judge):
    for field in ("operator", "contact", "purpose", "intended_use", "limits", "data_origin", "people", "reference"):
        forged = copy.deepcopy(honest)
        forged["config"][f"report.{field}"] = "approved"
        _, checks = judge(forged, world.roster)
        assert checks["closing"].status == checks["first record"].status == "fails"


# --- units and noise ------------------------------------------------------------------------------------------------


def test_seeded_noise_cannot_be_relabelled_with_the_configuration(judge):
    """Report, words, figures, first record and configuration say secure; the clients' entries do not."""
    world = record_world(noise="seeded")
    honest = world.report()
    lying = World(plan=world.plan, noise="secure", server=world.server, keys=world.keys)
    relabelled = edit_records(
        lying, honest, lambda records: records[0].update(noise="secure", config=config_digest(lying.config))
    )
    # Claimed from the relabelled first record, so that nothing but the clients' entries contradicts it.
    forged = lying.closed({**lying.claimed(relabelled["proof"]), "config": lying.config})
    verdict, checks = judge(forged, world.roster)
    assert not verdict.holds
    assert [check.name for check in verdict.of("fails")] == ["entries follow the plan"]
    assert re.match(
        r"round 1, client 0: entry 1 was signed for seeded noise, and the report says secure; ",
        checks["entries follow the plan"].detail,
    )
    assert "seeded noise protects nobody, and ledgers have reservations for it" in checks["noise"].detail


def with_earlier(world, client, **changes):
    """Give the world's report where the earlier run of a client was another."""
    plain = world.report()
    entries = [payload(envelope) for envelope in plain["proof"]["ledgers"][client]["entries"]]
    entries[0].update(changes)
    signed = chain(PAYLOAD_TYPE, entries, world.keys[client])
    plain["proof"]["ledgers"][client].update(entries=signed, statement=world.statement(client, signed))
    plain = edit_records(world, plain, lambda records: _relink(records, client, signed))
    return world.closed(world.claimed(plain["proof"]))


def _relink(records, client, signed):
    for record in records:
        for update in record.get("updates", ()):
            if update["client"] == client:
                update["head"] = sha256(line(signed[update["sequence"] - 1])).hexdigest()


def test_an_earlier_run_with_seeded_noise_is_told(world, judge):
    """An honest report: what the client did with its records before is its own matter, and the reader's to know."""
    verdict, checks = judge(with_earlier(world, 0, noise="seeded"), world.roster)
    assert verdict.holds
    assert checks["noise"].status == "not proven"
    assert "ledgers have reservations for it, by client 0 (entry 0): epsilon counts" in checks["noise"].detail


def test_charges_of_another_unit_do_not_add_up(world, judge):
    verdict, checks = judge(with_earlier(world, 0, unit="client"), world.roster)
    assert not verdict.holds
    assert checks["entries follow the plan"].detail == (
        "round 9, client 0: entry 0 protects each client, and the report's epsilon each record"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (record_world, "clients signed that they drew secure noise, and drawing itself cannot be proven"),
        (client_world, "clients signed that the server announced secure noise, and cannot see whether it is drawn"),
    ],
)
def test_what_was_signed_of_secure_noise_is_told(make, message, judge):
    world = make()
    _, checks = judge(world.report(), world.roster)
    assert checks["noise"].status == "not proven"
    assert message in checks["noise"].detail


# --- the curve, the second opinion, absurd charges ------------------------------------------------------------------


def mixed_world():
    """Let every client have an older run with another noise, so that nothing of the curve lies between."""
    plan = PrivacyPlan(spec=spec(rounds=14, epsilon=100.0), noise_multiplier=2.0)
    return World(plan=plan, rounds=14, earlier=(0, 1, 2, 3), lost=(), refused=(), silent=())


def test_a_curve_of_several_mechanisms_does_not_fall(judge):
    world = mixed_world()
    plain = world.report()
    verdict, checks = judge(plain, world.roster)
    assert verdict.holds
    assert checks["epsilon over the rounds"].detail.endswith(
        "composed again, the others do not fall from round to round"
    )
    for value, message in ((1e-6, r"round 7: the curve of client 2 falls from \d\.\d+ to 1e-06"), (99.0, "ends with")):
        forged = copy.deepcopy(plain)
        point = forged["privacy"]["curve"][7]
        point["clients"][2] = value
        point.update(max=max(point["clients"]), median=sorted(point["clients"])[2])
        _, checks = judge(world.closed(forged), world.roster)
        assert checks["epsilon over the rounds"].status == "fails"
        assert re.search(message, checks["epsilon over the rounds"].detail)


def test_a_curve_has_every_round(world, honest, judge):
    forged = copy.deepcopy(honest)
    del forged["privacy"]["curve"][2]
    _, checks = judge(world.closed(forged), world.roster)
    assert checks["epsilon over the rounds"].detail == "the curve has no point of round 2"
    _, checks = judge(world.closed(changed(honest, "privacy.curve", [])), world.roster)
    assert "the curve has no point of round 0" in checks["epsilon over the rounds"].detail
    longer = copy.deepcopy(honest)
    longer["privacy"]["curve"].append({**longer["privacy"]["curve"][-1], "round": 5})
    _, checks = judge(world.closed(longer), world.roster)
    assert "the curve has a point of round 5" in checks["epsilon over the rounds"].detail


@pytest.mark.parametrize(("off", "status"), [(0.02, "holds"), (0.08, "not proven"), (0.5, "fails")])
def test_the_second_opinion_may_be_off_by_little(off, status, world, honest, judge):
    """Without any key: the largest epsilon is moved from what the second opinion gives."""
    forged = copy.deepcopy(honest)
    privacy = forged["privacy"]
    told = privacy["accountants"][1]["epsilon"]
    for client in privacy["clients"]:
        client["epsilon"] = told if client["client"] == 0 else min(client["epsilon"], told)
    most = 1.01 * told + off
    privacy["clients"][0]["epsilon"] = privacy["epsilon"] = privacy["accountants"][0]["epsilon"] = most
    privacy["curve"][-1]["max"] = privacy["curve"][-1]["clients"][0] = most
    _, checks = judge(forged, world.roster)
    assert checks["epsilon, second opinion"].status == status
    assert ("only roughly" in checks["epsilon, second opinion"].detail) is (status == "not proven")


@pytest.mark.parametrize("noise", [1e-300, 1e300])
def test_absurd_charges_that_a_client_signed_fail_for_that_client(noise, world, honest, judge):
    """With the client's key."""
    forged = copy.deepcopy(honest)
    entries = [payload(envelope) for envelope in forged["proof"]["ledgers"][0]["entries"]]
    entries[0]["event"]["noise_multiplier"] = noise
    signed = chain(PAYLOAD_TYPE, entries, world.keys[0])
    forged["proof"]["ledgers"][0].update(entries=signed, statement=world.statement(0, signed))
    verdict, checks = judge(forged, world.roster)
    assert not verdict.holds
    assert checks["clients' ledgers"].detail.startswith("client 0: entry 0: ")
    assert checks["epsilon"].detail == "the ledger of client 0 does not verify"
