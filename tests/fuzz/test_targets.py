"""The targets themselves, without atheris: they accept what they start from, and find a planted error."""

import json
import random
from contextlib import suppress

import pytest

from fedtrain.crypto import SignedEnvelope
from fedtrain.errors import TransportError
from fedtrain.messaging import Header, decode, encode
from tests.fuzz import targets
from tests.fuzz.targets import TARGETS, WORDS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_what_it_starts_from_and_what_is_made_of_it(name):
    target, seeds = TARGETS[name]
    choice = random.Random(name)
    for seed in seeds:
        target(seed)
        for _ in range(100):
            place = choice.randrange(len(seed) + 1)
            target(seed[:place] + choice.choice([*WORDS, bytes([choice.randrange(256)])]) + seed[place + 1 :])


def test_what_targets_start_from_is_accepted():
    for seed in TARGETS["header"][1]:
        Header.decode(seed)
    for seed in TARGETS["envelope"][1]:
        SignedEnvelope.from_line(seed)
    decoded = 0
    for seed in TARGETS["content"][1]:
        with suppress(TransportError):
            decoded += decode(seed) is not None
    assert decoded == len(targets.CONTENTS)


@pytest.mark.parametrize(
    ("name", "place", "planted"),
    [
        ("content", "decode", lambda data: {}),
        ("content", "decode", json.loads),
        ("content", "encode", lambda content: encode(content) + b"\0"),
        ("header", "Header", type("Planted", (), {"decode": staticmethod(lambda data: targets.HEADER)})),
        ("opened", "open_sealed", lambda *args, **kwargs: (b"", b"")),
    ],
)
def test_a_planted_error_is_found(monkeypatch, name, place, planted):
    monkeypatch.setattr(targets, place, planted)
    target, seeds = TARGETS[name]
    found = 0
    for seed in (*seeds, b"{}"):
        try:
            target(seed)
        except (AssertionError, ValueError):
            found += 1
    assert found
