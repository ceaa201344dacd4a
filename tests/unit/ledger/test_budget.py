from dataclasses import replace
from hashlib import sha256

import pytest

from fedtrain.errors import BudgetError, PrivacySpecError
from fedtrain.ledger import SitePolicy, Totals, check, rounds_left, spent
from fedtrain.privacy import SampledGaussian, SampledSkellam, epsilon_of

EVENT = SampledGaussian(sampling_rate=0.01, noise_multiplier=1.0, steps=100)
RUN = {"run": "run", "whole": EVENT}
AS = RUN | {"unit": "record", "noise": "seeded"}
POLICY = SitePolicy(epsilon=2.0, delta=1e-5)


def test_reservations_are_charged_and_settlements_are_not(place):
    with place.open() as ledger:
        assert spent(ledger.entries, 1e-5) == 0
        first = place.reserve(ledger, 1, event=EVENT)
        one = spent(ledger.entries, 1e-5)
        assert one == epsilon_of([EVENT], 1e-5)
        ledger.settle(first, "e" * 64)
        assert spent(ledger.entries, 1e-5) == one
        place.reserve(ledger, 2, run="another", event=EVENT)
        assert spent(ledger.entries, 1e-5) == epsilon_of([EVENT, EVENT], 1e-5) > one


def test_a_step_within_the_budget_passes_and_one_beyond_is_refused(place):
    left = rounds_left(POLICY, [], EVENT)
    assert left > 2
    with place.open() as ledger:
        place.reserve(ledger, event=replace(EVENT, steps=EVENT.steps * (left - 1)))
        check(POLICY, ledger.totals, EVENT, mode="record", **AS)
        place.reserve(ledger, 2, event=EVENT)
        before = spent(ledger.entries, 1e-5)
        after = epsilon_of([replace(EVENT, steps=EVENT.steps * (left + 1))], 1e-5)
        assert before <= 2 < after
        with pytest.raises(BudgetError) as raised:
            check(POLICY, ledger.totals, EVENT, mode="record", **AS)
        assert str(raised.value) == (
            f"it would bring epsilon from {before:.4g} to {after:.4g}, beyond this client's budget of 2 at "
            "delta 1e-05; nothing was trained"
        )


def test_a_budget_that_is_met_exactly_is_kept():
    exact = SitePolicy(epsilon=epsilon_of([EVENT], 1e-5), delta=1e-5)
    check(exact, Totals(), EVENT, mode="client", **AS)
    assert rounds_left(exact, [], EVENT) == 1


def test_a_mode_or_too_little_noise_is_refused():
    strict = SitePolicy(epsilon=8.0, delta=1e-5, minimum_noise=1.0, modes=("record",))
    check(strict, Totals(), EVENT, mode="record", **AS)
    with pytest.raises(BudgetError, match=r"mode 'client' is not allowed by this client \(allowed: record\)"):
        check(strict, Totals(), EVENT, mode="client", **AS)
    with pytest.raises(BudgetError, match=r"noise multiplier 0\.9999 is below the minimum of this client, 1;"):
        check(strict, Totals(), replace(EVENT, noise_multiplier=0.9999), mode="record", **AS)
    closed = SitePolicy(epsilon=8.0, delta=1e-5, modes=())
    with pytest.raises(BudgetError, match="none at all"):
        check(closed, Totals(), EVENT, mode="record", **AS)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 2.0])
def test_the_rounds_left_are_as_many_as_fit(place, epsilon):
    policy = SitePolicy(epsilon=epsilon, delta=1e-5)
    with place.open() as ledger:
        place.reserve(ledger, event=replace(EVENT, noise_multiplier=2.0))
        used = ledger.entries[0].event
        left = rounds_left(policy, ledger.entries, EVENT)

    def total(count):
        return epsilon_of([used, replace(EVENT, steps=EVENT.steps * count)], 1e-5)

    assert total(left + 1) > epsilon
    assert total(left) <= epsilon or left == 0


def test_no_more_rounds_are_counted_than_asked():
    gentle = replace(EVENT, noise_multiplier=50.0, steps=1)
    for limit in (0, 1, 2, 3, 5, 8, 100):
        assert rounds_left(POLICY, [], gentle, limit=limit) == limit


INTEGERS = SampledSkellam(sampling_rate=0.05, variance=8192**2, l2=8192, l1=10**6, values=20_000, steps=1)


def test_a_ledger_charges_integer_noise_beside_gaussian_noise(place):
    with place.open() as ledger:
        place.reserve(ledger, 1, event=INTEGERS)
        place.reserve(ledger, 2, event=replace(INTEGERS, steps=3))
        place.reserve(ledger, 3, event=EVENT)
        one = spent(ledger.entries, 1e-5)
    with place.open() as ledger:
        assert [entry.event for entry in ledger.entries] == [INTEGERS, replace(INTEGERS, steps=3), EVENT]
        assert spent(ledger.entries, 1e-5) == one == epsilon_of([EVENT, replace(INTEGERS, steps=4)], 1e-5)
        left = rounds_left(POLICY, ledger.entries, INTEGERS)
        assert left > 0
        check(POLICY, ledger.totals, INTEGERS, mode="record", run="run", whole=INTEGERS, unit="record", noise="seeded")
        beyond = replace(INTEGERS, steps=left + 1)
        with pytest.raises(BudgetError, match="beyond this client's budget"):
            check(POLICY, ledger.totals, beyond, mode="record", run="run", whole=beyond, unit="record", noise="seeded")


def test_less_noise_than_a_site_asks_for_is_refused_of_integer_noise_too():
    policy = SitePolicy(epsilon=8.0, delta=1e-5, minimum_noise=1.1)
    with pytest.raises(BudgetError, match=r"noise multiplier 1 is below the minimum of this client, 1\.1"):
        check(policy, Totals(), INTEGERS, mode="record", run="run", whole=INTEGERS, unit="record", noise="secure")


def test_rounds_that_have_no_bound_do_not_fit():
    whole = replace(INTEGERS, sampling_rate=1.0)
    left = rounds_left(SitePolicy(epsilon=1000.0, delta=1e-5), [], whole)
    assert epsilon_of([replace(whole, steps=left)], 1e-5) > 20
    with pytest.raises(PrivacySpecError, match="cannot be bounded"):
        epsilon_of([replace(whole, steps=left + 1)], 1e-5)


def test_a_source_of_noise_that_is_not_allowed_is_refused():
    strict = SitePolicy(epsilon=8.0, delta=1e-5, noise=("secure",))
    check(strict, Totals(), EVENT, mode="record", **RUN, unit="record", noise="secure")
    with pytest.raises(
        BudgetError, match=r"seeded noise is not allowed by this client \(allowed: secure\); nothing was"
    ):
        check(strict, Totals(), EVENT, mode="record", **RUN, unit="record", noise="seeded")
    closed = SitePolicy(epsilon=8.0, delta=1e-5, noise=())
    with pytest.raises(BudgetError, match=r"secure noise is not allowed by this client \(allowed: none at all\)"):
        check(closed, Totals(), EVENT, mode="record", **RUN, unit="record", noise="secure")


@pytest.mark.parametrize(
    ("held", "unit", "noise", "why"),
    [
        (
            {"unit": "record"},
            "client",
            "seeded",
            "charges that protect single records; charges that protect whole clients",
        ),
        (
            {"unit": "client"},
            "record",
            "seeded",
            "charges that protect whole clients; charges that protect single records",
        ),
        (
            {"noise": "seeded"},
            "record",
            "secure",
            "charges of runs with seeded noise. What was released with seeded noise",
        ),
        (
            {"noise": "secure"},
            "record",
            "seeded",
            "charges of runs with secure noise. What is released with seeded noise",
        ),
    ],
)
def test_charges_that_do_not_add_up_are_refused(place, held, unit, noise, why):
    """Whatever the budget, whichever run: also where the other charge is not the newest."""
    policy = SitePolicy(epsilon=1000.0, delta=1e-5)
    with place.open() as ledger:
        first = place.reserve(ledger, run="earlier", **held)
        check(policy, ledger.totals, EVENT, mode=first.unit, **RUN, unit=first.unit, noise=first.noise)
        with pytest.raises(BudgetError, match=f"holds {why}.*nothing was trained. Use another folder of sites"):
            check(policy, ledger.totals, EVENT, mode=unit, **RUN, unit=unit, noise=noise)
        place.reserve(ledger, run="later", unit=unit, noise=noise)
        with pytest.raises(BudgetError, match=f"holds {why}"):
            check(policy, ledger.totals, EVENT, mode=unit, **RUN, unit=unit, noise=noise)


def test_where_a_whole_run_fits_its_rounds_do_and_where_it_does_not_each_is_counted(place):
    """The budget ends with the same round, whatever the run says that it is going to do."""
    left = rounds_left(POLICY, [], EVENT)
    for run, most in (("small", 1), ("fits", left), ("too-long", left + 100), ("endless", 10**6)):
        whole = replace(EVENT, steps=EVENT.steps * most)
        with place.open(dataset=sha256(run.encode()).hexdigest()) as ledger:
            for number in range(1, left + 1):
                check(POLICY, ledger.totals, EVENT, mode="record", unit="record", noise="seeded", run=run, whole=whole)
                place.reserve(ledger, number, run=run, event=EVENT)
            with pytest.raises(BudgetError, match="beyond this client's budget"):
                check(POLICY, ledger.totals, EVENT, mode="record", unit="record", noise="seeded", run=run, whole=whole)


def test_what_other_runs_or_another_mechanism_charged_takes_the_room_of_a_whole_run(place):
    whole = replace(EVENT, steps=EVENT.steps * rounds_left(POLICY, [], EVENT))
    stated = {"mode": "record", "unit": "record", "noise": "seeded", "run": "run", "whole": whole}
    with place.open() as ledger:
        place.reserve(ledger, run="other", event=EVENT)
        place.reserve(ledger, run="run", event=replace(whole, steps=whole.steps - EVENT.steps))
        with pytest.raises(BudgetError, match="beyond this client's budget"):
            check(POLICY, ledger.totals, EVENT, **stated)
    with place.open(dataset="e" * 64) as ledger:
        place.reserve(ledger, run="run", event=replace(whole, noise_multiplier=1.01))
        with pytest.raises(BudgetError, match="beyond this client's budget"):
            check(POLICY, ledger.totals, replace(EVENT, steps=whole.steps), **stated)
