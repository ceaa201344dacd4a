import json

import pytest

from fedtrain.crypto import Identity
from fedtrain.errors import KeyFileError
from fedtrain.trust import Roster

KEYS = [Identity.generate().public for _ in range(4)]
ROSTER = Roster(server=KEYS[0], clients={10: KEYS[2], 2: KEYS[1]})


def test_a_roster_is_read_back(tmp_path):
    path = tmp_path / "roster.json"
    ROSTER.write(path)
    assert Roster.read(path) == Roster.from_json(ROSTER.as_json()) == ROSTER
    assert Roster.read(path).digest == ROSTER.digest
    assert list(ROSTER.clients) == [2, 10]


def test_the_digest_is_of_the_keys_and_their_places():
    others = [
        Roster(server=KEYS[3], clients=ROSTER.clients),
        Roster(server=KEYS[0], clients={2: KEYS[1]}),
        Roster(server=KEYS[0], clients={2: KEYS[2], 10: KEYS[1]}),
    ]
    assert len({ROSTER.digest, *(other.digest for other in others)}) == 4


def test_what_is_given_is_copied():
    clients = {0: KEYS[1]}
    roster = Roster(server=KEYS[0], clients=clients)
    clients[1] = KEYS[0]
    assert roster.clients == {0: KEYS[1]}


def test_nothing_of_it_changes():
    with pytest.raises(TypeError):
        ROSTER.clients[1] = KEYS[0]


def test_the_same_bytes_are_read_once_in_a_process(tmp_path):
    ROSTER.write(tmp_path / "one.json")
    ROSTER.write(tmp_path / "two.json")
    assert Roster.read(tmp_path / "one.json") is Roster.read(tmp_path / "two.json")
    other = Roster(server=KEYS[0], clients={2: KEYS[2], 10: KEYS[1]})
    other.write(tmp_path / "two.json")
    assert Roster.read(tmp_path / "two.json") == other != Roster.read(tmp_path / "one.json")


def test_two_with_the_same_key_are_refused():
    with pytest.raises(ValueError, match="client 3 has the same key as client 1"):
        Roster(server=KEYS[0], clients={1: KEYS[1], 2: KEYS[2], 3: KEYS[1]})
    with pytest.raises(ValueError, match="client 1 has the same key as the server"):
        Roster(server=KEYS[0], clients={1: KEYS[0]})
    with pytest.raises(ValueError, match="client -1"):
        Roster(server=KEYS[0], clients={-1: KEYS[1]})


GOOD = ROSTER.as_json()


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        GOOD | {"more": 1},
        GOOD | {"schema": "fedtrain.roster/2"},
        GOOD | {"server": 5},
        GOOD | {"server": "short"},
        GOOD | {"clients": []},
        GOOD | {"clients": {"0": 5}},
        GOOD | {"clients": {"0": "short"}},
        *(GOOD | {"clients": {name: KEYS[3].encode()}} for name in ("", "00", "-1", "x", "1.0", "²", " 1")),
        GOOD | {"clients": {"0": GOOD["server"]}},
    ],
)
def test_what_is_no_roster_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"."):
        Roster.from_json(value)
    path = tmp_path / "roster.json"
    path.write_text(json.dumps(value))
    with pytest.raises(KeyFileError, match=f"{path} cannot be used as a roster"):
        Roster.read(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(KeyFileError, match="No such file"):
        Roster.read(tmp_path / "missing")
    path = tmp_path / "roster.json"
    for data in (b"", b"{", b"\xff", b'{"clients":{},' + json.dumps(GOOD).encode()[1:], b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(KeyFileError, match=f"{path} cannot be used as a roster"):
            Roster.read(path)
