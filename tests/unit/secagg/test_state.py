import json

import pytest

from fedtrain.crypto import canonical
from fedtrain.errors import TransportError
from fedtrain.secagg import ClientState, Parameters, Pending

PENDING = Pending(
    binding="0a" * 32,
    parameters=Parameters.plan(members=3, length=2, bits=16, bound=3.0),
    cohort=(0, 5, 9),
    order="0b" * 32,
    sharing=(bytes(32), bytes(range(32)), b"\xff" * 32),
)
STATE = ClientState(round=4, pending=PENDING)


def test_a_state_is_read_back():
    for state in (ClientState(), ClientState(round=7), STATE):
        assert ClientState.from_json(state.to_json()) == state


@pytest.mark.parametrize("bound", [1.0, 1e290, 1e-12, 0.1])
def test_a_bound_keeps_its_last_bit(bound):
    parameters = Parameters.plan(members=3, length=2, bits=16, bound=bound)
    state = ClientState(round=1, pending=Pending(**vars(PENDING) | {"parameters": parameters}))
    assert ClientState.from_json(state.to_json()) == state


def test_a_state_is_small():
    members = 100
    pending = Pending(
        binding="0a" * 32,
        parameters=Parameters.plan(members=members, length=1_000_000, bits=16, bound=3.0),
        cohort=tuple(range(members)),
        order="0b" * 32,
        sharing=(bytes(32),) * members,
    )
    assert len(ClientState(round=1, pending=pending).to_json()) < 8000


GOOD = json.loads(STATE.to_json())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff",
        b"[]",
        b"null",
        bytes((1 << 22) + 1),
        canonical({"round": 1}),
        canonical({"pending": None}),
        canonical({"round": 1, "pending": None, "more": 1}),
        canonical({"round": 1, "pending": 5}),
        canonical({"round": -1, "pending": None}),
        canonical({"round": True, "pending": None}),
        canonical({"round": "1", "pending": None}),
        canonical(GOOD | {"pending": GOOD["pending"] | {"more": 1}}),
        canonical(GOOD | {"pending": {}}),
        *(
            canonical(GOOD | {"pending": GOOD["pending"] | changes})
            for changes in (
                {"binding": "0A" * 32},
                {"order": ""},
                {"cohort": [0, 5]},
                {"cohort": [5, 0, 9]},
                {"sharing": "00"},
                {"sharing": None},
                {"bound": 1},
                {"bound": "x"},
                {"bound": "0x1p99999"},
                {"bound": "nan"},
                {"bound": None},
                {"threshold": 1},
                {"bits": 60},
            )
        ),
    ],
)
def test_what_is_no_state_is_refused(data):
    with pytest.raises(TransportError, match=r"cannot be used|are refused"):
        ClientState.from_json(data)


def test_each_missing_field_is_named():
    for name in GOOD["pending"]:
        fields = {key: value for key, value in GOOD["pending"].items() if key != name}
        with pytest.raises(TransportError, match=f"{name}"):
            ClientState.from_json(canonical({"round": 4, "pending": fields}))
