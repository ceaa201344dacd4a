import pytest
from flwr.app import ConfigRecord, RecordDict

from fedtrain.flower.accounts import load_account, store_account
from fedtrain.privacy import Account, Charge, SampledGaussian

CHARGES = tuple(
    Charge(
        run="ab" * 32,
        round_number=number,
        model=f"model {number}",
        event=SampledGaussian(sampling_rate=0.1 * number, noise_multiplier=1.0 / 3.0, steps=4 * number),
    )
    for number in (1, 2, 5)
)


def test_a_client_without_a_history_has_an_empty_account():
    assert load_account(RecordDict()) == Account()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_account_survives_its_way_through_the_state(count):
    state = RecordDict({"other": ConfigRecord({"kept": 1})})
    store_account(state, Account(charges=CHARGES[:count]))
    assert load_account(state) == Account(charges=CHARGES[:count])
    assert state["other"] == ConfigRecord({"kept": 1})


def test_storing_replaces():
    state = RecordDict()
    store_account(state, Account(charges=CHARGES))
    store_account(state, Account(charges=CHARGES[:1]))
    assert load_account(state).charges == CHARGES[:1]


def test_an_account_with_a_hole_is_refused_and_not_taken_for_a_smaller_one():
    state = RecordDict()
    store_account(state, Account(charges=CHARGES))
    (record,) = state.config_records.values()
    record["steps"] = record["steps"][:1]
    with pytest.raises(ValueError, match="zip"):
        load_account(state)
