"""What is reserved before a record is trained on, and how often the same work is charged."""

from dataclasses import replace

import pytest

from fedtrain.clientapp.policy import checked_plan, refuse_unmasked, reserve
from fedtrain.errors import BudgetError
from fedtrain.machines import NodeFolder
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.serverapp.preparation import prepare
from tests.fakes import digits_experiment, private_experiment


@pytest.fixture
def charged(private, node):
    """A ledger of client 0, and what reserves a round in it."""
    client = node(private, 0)
    plan = checked_plan(private, prepare(private).plan.noise_multiplier)
    with client.opened.open_ledger(client.opened.dataset_of(client.site.records(0))) as ledger:

        def reserved(number=1, *, request="a" * 64, of=client.opened):
            return reserve(ledger, of, plan, run="run", round_number=number, request=request)

        yield ledger, plan, reserved


def test_seeded_work_is_charged_once_even_when_the_run_has_no_round_left(charged, private):
    ledger, _, reserved = charged
    made = [reserved(number) for number in range(1, private.federation.rounds + 1)]
    assert [reserved(entry.round) for entry in made] == made
    assert ledger.totals.reservations("run") == len(made) == private.federation.rounds


def test_other_work_is_charged_anew_and_refused_when_no_round_is_left(charged, private):
    ledger, _, reserved = charged
    for number in range(1, private.federation.rounds + 1):
        reserved(number)
    with pytest.raises(BudgetError, match=r"has taken part in this run 3 times, and the noise is calibrated for 3"):
        reserved(1, request="b" * 64)
    assert ledger.totals.reservations("run") == 3


@pytest.mark.parametrize("number", [0, 4])
def test_a_round_that_the_experiment_does_not_have_is_refused(charged, number):
    with pytest.raises(BudgetError, match=rf"round {number} is not one of the 3 rounds"):
        charged[2](number)


def test_a_charge_for_secure_noise_does_not_pay_for_seeded_work(charged, private):
    """All else is the same; the ledger alone decides, and it compares unit and noise too."""
    ledger, plan, reserved = charged
    subject = {"run": "run", "round_number": 1, "plan": plan.digest, "model": "a" * 64}
    event = mechanism_of(private).reservation(plan)
    ledger.reserve(**subject, event=event, repeatable=False, unit=plan.spec.unit, noise="secure")
    with pytest.raises(BudgetError, match="holds charges of runs with secure noise"):
        reserved()


BANDED = {
    "privacy__mode": "client",
    "privacy__cohorts": "capped",
    "privacy__mechanism": "banded",
    "privacy__separation": 3,
    "privacy__delta": 1e-2,
    "federation__cohort": 1,
    "federation__rounds": 9,
}


@pytest.fixture
def apart(cache, tmp_path, node):
    """Give a function that makes what reserves a round of correlated noise at client 0."""

    def make(**settings):
        experiment = digits_experiment(cache, federation__sites=str(tmp_path / "sites"), **(BANDED | settings))
        client, plan = node(experiment, 0), mechanism_of(experiment).plan(experiment, noise_multiplier=9.0)

        def reserved(number, *, run="run", request="a" * 64):
            with client.opened.open_ledger(client.opened.dataset_of(client.site.records(0))) as ledger:
                return reserve(ledger, client.opened, plan, run=run, round_number=number, request=request)

        return reserved

    return make


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_a_round_that_is_too_near_to_the_last_one_is_refused_by_the_ledger(apart, noise):
    reserved = apart(privacy__noise=noise)
    reserved(2)
    for number in (3, 4, 1):
        with pytest.raises(BudgetError, match=rf"round {number} is too near to round 2, .* for 3 rounds from one"):
            reserved(number)
    assert reserved(5).round == 5
    # Another run is another mechanism, and is charged in full.
    assert reserved(6, run="another").round == 6


def test_the_same_round_with_another_model_is_refused(apart):
    reserved = apart()
    first = reserved(2)
    with pytest.raises(BudgetError, match="round 2 is too near to round 2"):
        reserved(2, request="b" * 64)
    # The very same work gives the very same update, also when later rounds were reserved since.
    reserved(5)
    assert reserved(2) == first


def test_with_secure_noise_a_round_is_reserved_once(apart):
    reserved = apart(privacy__noise="secure")
    reserved(2)
    with pytest.raises(BudgetError, match="round 2 is too near to round 2"):
        reserved(2)


def test_independent_noise_needs_no_separation(apart):
    reserved = apart(privacy__mechanism="gaussian", privacy__separation="")
    assert [reserved(number).round for number in (2, 3, 4)] == [2, 3, 4]


def test_secure_work_is_charged_each_time(cache, tmp_path, node):
    experiment = private_experiment(cache, federation__sites=str(tmp_path / "sites"), privacy__noise="secure")
    client = node(experiment, 0)
    plan = checked_plan(experiment, prepare(experiment).plan.noise_multiplier)
    with client.opened.open_ledger(client.opened.dataset_of(client.site.records(0))) as ledger:
        for _ in range(2):
            reserve(ledger, client.opened, plan, run="run", round_number=1, request="a" * 64)
        assert ledger.totals.reservations("run") == 2


SHARED = {"training__local_steps": 1, "privacy__trust": "distributed", "privacy__colluders": 1}


@pytest.fixture
def sharing(cache, tmp_path, node):
    """Give a function that makes client 0 of an experiment with shared noise, with a site file, and a reservation."""

    def make(policy):
        folder = tmp_path / "sites" / "client-0000"
        folder.mkdir(parents=True)
        if policy is not None:
            (folder / "site.toml").write_text(f"[budget]\nepsilon = 9\ndelta = 1e-3\n[policy]\n{policy}\n")
        settings = {"federation__cohort": 4, "federation__sites": str(tmp_path / "sites")}
        experiment = private_experiment(cache, **SHARED, **settings)
        client = node(experiment, 0)
        plan = mechanism_of(experiment).plan(experiment, noise_multiplier=5.0)
        dataset = client.opened.dataset_of(client.site.records(0))

        def reserved():
            with client.opened.open_ledger(dataset) as ledger:
                return reserve(ledger, client.opened, plan, run="run", round_number=1, request="a" * 64)

        return client, reserved

    return make


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("", r"distributed noise is not allowed by this client \(allowed: local, central\)"),
        ('trust = ["local"]', r"distributed noise is not allowed by this client \(allowed: local\)"),
        ('trust = ["distributed"]\ncolluders = 2', r"privacy.colluders = 1, and this client asks for 2 or more"),
    ],
)
def test_a_site_decides_on_whom_it_relies(sharing, policy, message):
    with pytest.raises(BudgetError, match=message):
        sharing(policy)[1]()


@pytest.mark.parametrize("policy", [None, 'trust = ["distributed"]\ncolluders = 1'])
def test_shared_noise_is_reserved_where_the_site_allows_it(sharing, policy):
    entry = sharing(policy)[1]()
    assert entry.event.kind == "poisson-sampled-skellam"
    assert entry.event.noise_multiplier == pytest.approx(5.0)


def test_on_a_machine_of_its_own_a_client_adds_a_share_to_masked_sums_alone(sharing):
    client = sharing(None)[0].opened
    refuse_unmasked(client, masked=False)
    alone = replace(client, node=NodeFolder.__new__(NodeFolder))
    refuse_unmasked(alone, masked=True)
    with pytest.raises(BudgetError, match="in sums of several clients alone, and the server asks for it without masks"):
        refuse_unmasked(alone, masked=False)
