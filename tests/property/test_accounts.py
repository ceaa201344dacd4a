from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.flower.accounts import load_account, store_account
from fedtrain.privacy import Account, Charge, SampledGaussian

charges = st.builds(
    Charge,
    run=st.text(st.characters(exclude_categories=["Cs"])),
    round_number=st.integers(1, 10**9),
    model=st.text(st.characters(exclude_categories=["Cs"])),
    event=st.builds(
        SampledGaussian,
        sampling_rate=st.floats(0, 1, exclude_min=True),
        noise_multiplier=st.floats(0.3, 1000),
        steps=st.integers(1, 10**6),
    ),
)


@given(st.lists(charges, max_size=5).map(tuple))
def test_an_account_is_the_same_to_the_bit_after_flower_has_kept_it(listed):
    state = RecordDict()
    store_account(state, Account(charges=listed))
    kept = recorddict_from_proto(recorddict_to_proto(state))
    assert load_account(kept) == Account(charges=listed)
