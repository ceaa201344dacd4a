"""A client's word about its ledger, which binds it at a round also after a restart."""

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError, LedgerError, StorageError
from fedtrain.ledger import Statement, read_statement
from fedtrain.ledger.entry import PAYLOAD_TYPE as ENTRY_TYPE
from fedtrain.ledger.statement import PAYLOAD_TYPE

IDENTITY = Identity.generate()
STATEMENT = Statement(
    run="run",
    round=3,
    dataset="d" * 64,
    sequence=7,
    head="e" * 64,
    epsilon=8.0,
    delta=1e-5,
    refusal="beyond the budget",
    time="2026-01-02T03:04:05Z",
)


def sign(payload, kind=PAYLOAD_TYPE):
    return SignedEnvelope.sign(kind, payload, IDENTITY)


def test_a_statement_is_read_back():
    assert read_statement(sign(STATEMENT.encode()), IDENTITY.public) == STATEMENT


def test_a_name_is_inside_the_signature_and_left_out_where_there_is_none():
    assert b"name" not in STATEMENT.encode()
    named = STATEMENT.model_copy(update={"name": "St. Mary's Hospital"})
    signed = sign(named.encode())
    assert read_statement(signed, IDENTITY.public) == named
    swapped = replace(signed, payload=signed.payload.replace(b"Mary", b"John"))
    null = sign(canonical(STATEMENT.model_dump() | {"name": None}))
    for forged in (swapped, null, sign(canonical(STATEMENT.model_dump() | {"name": "a\u202eb"}))):
        with pytest.raises(ForgeryError):
            read_statement(forged, IDENTITY.public)


def test_what_the_client_did_not_sign_is_refused():
    signed = sign(STATEMENT.encode())
    for wrong in (
        replace(signed, payload=signed.payload.replace(b"beyond", b"within")),
        sign(STATEMENT.encode(), ENTRY_TYPE),
        sign(STATEMENT.encode() + b" "),
        sign(canonical(STATEMENT.model_dump() | {"sequence": -1})),
        sign(canonical(STATEMENT.model_dump() | {"more": 1})),
        *(sign(canonical(STATEMENT.model_dump(exclude={name}))) for name in ("refusal", "epsilon", "delta")),
        *(
            sign(canonical(STATEMENT.model_dump() | change))
            for change in ({"epsilon": 0}, {"epsilon": "8"}, {"epsilon": None}, {"delta": 0}, {"delta": 1})
        ),
    ):
        with pytest.raises(ForgeryError):
            read_statement(wrong, IDENTITY.public)
    with pytest.raises(ForgeryError, match="it is signed with key"):
        read_statement(signed, Identity.generate().public)


ROOT = Path(__file__).parents[3]


def refused(place, ledger, number, stated, **changes):
    before = ledger.entries
    with pytest.raises(
        LedgerError, match=f"stated that it did not train in round {stated} of this run or before; round"
    ):
        place.reserve(ledger, number, **changes)
    assert ledger.entries == before


def test_a_round_that_was_stated_is_not_reserved(place):
    with place.open() as ledger:
        place.state(ledger, 2)
        for number in (1, 2):
            refused(place, ledger, number, 2)
        place.reserve(ledger, 3)
        place.reserve(ledger, 0)
        place.reserve(ledger, 1, run="other")
    with place.open() as ledger:
        for number in (1, 2):
            refused(place, ledger, number, 2)
        refused(place, ledger, 2, 2, repeatable=True)


def test_a_statement_before_the_first_round_binds_to_nothing(place):
    with place.open() as ledger:
        place.state(ledger, 0)
        place.reserve(ledger, 1)
        place.reserve(ledger, 0)


def test_what_was_reserved_before_the_statement_can_be_repeated(place):
    with place.open() as ledger:
        first = place.reserve(ledger, 1, repeatable=True)
        place.state(ledger, 1)
    with place.open() as ledger:
        assert place.reserve(ledger, 1, repeatable=True) == first
        ledger.settle(first, "e" * 64)
        refused(place, ledger, 1, 1, repeatable=True, model="c" * 64)
        refused(place, ledger, 1, 1, repeatable=True, noise="secure")
        refused(place, ledger, 1, 1)


def test_a_run_that_goes_back_is_stated_anew(place):
    with place.open() as ledger:
        place.state(ledger, 5)
        place.state(ledger, 2)
        refused(place, ledger, 2, 2)
        place.reserve(ledger, 3)
    with place.open() as ledger:
        place.reserve(ledger, 4)
        place.state(ledger, 4)
        refused(place, ledger, 3, 4)


def test_a_statement_in_one_run_does_not_lift_that_in_another(place):
    with place.open() as ledger:
        place.state(ledger, 5)
        place.state(ledger, 1, run="other")
    with place.open() as ledger:
        refused(place, ledger, 3, 5)
        refused(place, ledger, 1, 1, run="other")
        place.reserve(ledger, 2, run="other")
    assert json.loads(place.stated.read_bytes()) == {"run": 5, "other": 1}


def test_the_same_statement_again_writes_nothing(place):
    with place.open() as ledger:
        first = read_statement(place.state(ledger, 1), place.identity.public)
        written = place.stated.stat().st_ino
        again = read_statement(place.state(ledger, 1, refusal="no"), place.identity.public)
        assert (first.round, again.round, again.refusal) == (1, 1, "no")
        assert place.stated.stat().st_ino == written


@pytest.mark.parametrize("change", [{"run": ""}, {"round_number": -1}, {"refusal": 1}])
def test_what_no_statement_may_hold_is_not_stated(place, change):
    with place.open() as ledger, pytest.raises(ValidationError):
        place.state(ledger, **{"round_number": 1} | change)
    assert not place.stated.exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b'{"run":-1}', b'{"run":1.5}', b'{"run":"1"}', b'{"run":true}', b"\xff", b"\0" * 20],
)
def test_a_damaged_file_is_refused_and_says_what_to_do(place, data):
    with place.open() as ledger:
        place.reserve(ledger, 1)
        place.state(ledger, 1)
    good, lines = place.stated.read_bytes(), place.file.read_bytes()
    place.stated.write_bytes(data)
    with pytest.raises(LedgerError, match=rf"(?s){place.stated}.* is damaged; .*Restore the file from a copy"):
        place.open()
    assert (place.stated.read_bytes(), place.file.read_bytes()) == (data, lines)
    place.stated.write_bytes(good)
    with place.open(timeout=0.05) as ledger:
        refused(place, ledger, 1, 1)


def test_a_file_that_cannot_be_read_is_named(place):
    place.stated.mkdir(parents=True)
    with pytest.raises(StorageError, match=f"cannot read {place.stated}: Is a directory"):
        place.open()


def test_a_statement_that_cannot_be_kept_is_not_made(place):
    with place.open() as ledger:
        place.state(ledger, 1)
        place.stated.unlink()
        place.stated.mkdir()
        with pytest.raises(StorageError, match=f"cannot write {place.stated}"):
            place.state(ledger, 2)
        place.reserve(ledger, 2)
        refused(place, ledger, 1, 1)


def test_a_process_that_is_killed_before_its_statement_leaves_is_bound(place):
    """Killed after the file is written, and before the statement is returned: the safe side of the two."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from fedtrain.crypto import Identity
        from fedtrain.ledger import Ledger, SitePolicy
        folder, key = map(Path, sys.argv[1:])
        def kill(event, arguments):
            if event == "os.rename" and str(arguments[1]).endswith(".stated"): replaced.append(True)
            elif replaced and replaced.pop(): os.kill(os.getpid(), signal.SIGKILL)
        replaced = []
        ledger = Ledger.open(folder, dataset="d" * 64, identity=Identity.load(key))
        sys.addaudithook(kill)
        ledger.statement(run="run", round_number=4, policy=SitePolicy(epsilon=1.0, delta=1e-5))
        print("returned", flush=True)
        """
    command = [sys.executable, "-c", textwrap.dedent(program), place.folder, place.folder.parent / "identity.pem"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (-9, ""), done.stderr
    with place.open() as ledger:
        refused(place, ledger, 4, 4)
        place.reserve(ledger, 5)
        assert read_statement(place.state(ledger, 4), place.identity.public).round == 4
