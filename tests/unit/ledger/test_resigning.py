import itertools
import shutil

import pytest

from fedtrain.crypto import Identity
from fedtrain.errors import LedgerError
from fedtrain.ledger import Ledger, read_chain
from fedtrain.ledger.resigning import datasets_of, resign
from tests.killing import killed_after
from tests.unit.ledger.conftest import DATASET, Place


@pytest.fixture
def new(tmp_path):
    return Identity.load_or_create(tmp_path / "new.pem")


@pytest.fixture
def retired(tmp_path):
    (tmp_path / "retired").mkdir()
    return tmp_path / "retired"


def content(place):
    return {path.name: path.read_bytes() for path in place.folder.iterdir() if path.suffix not in {".lock", ".tmp"}}


def unlinked(entries):
    return [entry.model_copy(update={"previous": "0" * 64}) for entry in entries]


def test_entries_stay_as_they_are_under_the_new_key_and_the_old_files_are_kept(filled, new, retired):
    with filled.open() as ledger:
        before, envelopes = ledger.entries, ledger.envelopes
        filled.state(ledger, 7)
    files = content(filled)
    resign(filled.folder, DATASET, old=filled.identity, new=new, retired=retired)
    after = Place(folder=filled.folder, identity=new)
    with after.open() as ledger:
        assert unlinked(ledger.entries) == unlinked(before)
        assert read_chain(ledger.envelopes, new.public) == ledger.entries
        assert {envelope.key_id for envelope in ledger.envelopes} == {new.public.key_id}
        # Its word binds it still: an earlier round is refused, and a later one goes on.
        with pytest.raises(LedgerError, match="did not train in round 7"):
            after.reserve(ledger, 7)
        after.reserve(ledger, 8)
    assert {path.name: path.read_bytes() for path in retired.iterdir()} == files
    assert filled.file.read_bytes() != files[filled.file.name]
    with pytest.raises(LedgerError, match="not this client's ledger"):
        filled.open()
    kept = Place(folder=retired, identity=filled.identity)
    with kept.open() as ledger:
        assert ledger.envelopes == envelopes


def test_an_older_ledger_in_its_place_is_noticed_after_it(filled, new, retired):
    with filled.open() as ledger:
        filled.reserve(ledger, 4)
    resign(filled.folder, DATASET, old=filled.identity, new=new, retired=retired)
    lines = filled.file.read_bytes().splitlines(keepends=True)
    filled.file.write_bytes(b"".join(lines[:-2]))
    with pytest.raises(LedgerError, match="entries were removed"):
        Place(folder=filled.folder, identity=new).open()


def test_a_settlement_that_is_still_to_come_follows_its_reservation(filled, new, retired):
    with filled.open() as ledger:
        reservation = ledger.entries[-1]
    resign(filled.folder, DATASET, old=filled.identity, new=new, retired=retired)
    with Place(folder=filled.folder, identity=new).open() as ledger:
        assert ledger.settle(reservation, "f" * 64).sequence == len(ledger.entries) - 1


@pytest.mark.parametrize("kept", [0, 1, 100])
def test_what_a_crash_tore_is_completed_and_stays_spent(filled, new, retired, kept):
    lines = filled.file.read_bytes().splitlines(keepends=True)
    filled.file.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    resign(filled.folder, DATASET, old=filled.identity, new=new, retired=retired)
    with Place(folder=filled.folder, identity=new).open() as ledger:
        assert len(ledger.entries) == len(lines)
        assert ledger.entries[-1].round == 3


def test_a_first_entry_of_which_there_is_only_the_intent_stays_spent(place, new, retired):
    with place.open() as ledger:
        place.reserve(ledger)
    place.file.unlink()
    assert datasets_of(place.folder) == (DATASET,)
    resign(place.folder, DATASET, old=place.identity, new=new, retired=retired)
    with Place(folder=place.folder, identity=new).open() as ledger:
        assert len(ledger.entries) == 1


def test_a_data_set_on_which_nothing_was_spent_keeps_what_was_stated(place, new, retired):
    with place.open() as ledger:
        place.state(ledger, 2)
    assert datasets_of(place.folder) == (DATASET,)
    resign(place.folder, DATASET, old=place.identity, new=new, retired=retired)
    with Place(folder=place.folder, identity=new).open() as ledger, pytest.raises(LedgerError, match="in round 2"):
        place.reserve(ledger, 2)
    assert (retired / place.stated.name).read_bytes() == place.stated.read_bytes()


def test_a_folder_that_is_not_there_has_no_data_sets(tmp_path):
    assert datasets_of(tmp_path / "nowhere") == ()


def test_once_more_changes_nothing(filled, new, retired):
    resign(filled.folder, DATASET, old=filled.identity, new=new, retired=retired)
    before, kept = content(filled), sorted(retired.iterdir())
    resign(filled.folder, DATASET, old=filled.identity, new=new, retired=retired)
    assert (content(filled), sorted(retired.iterdir())) == (before, kept)


def test_what_was_appended_after_an_interruption_is_not_lost(filled, new, retired, tmp_path):
    for step in itertools.count():
        place = Place(folder=tmp_path / f"{step}", identity=filled.identity)
        shutil.copytree(filled.folder, place.folder)
        kept = retired / f"{step}"
        kept.mkdir()
        with killed_after(step, tmp_path) as killed:
            resign(place.folder, DATASET, old=place.identity, new=new, retired=kept)
        try:
            with place.open() as ledger:
                place.reserve(ledger, 4)
                rounds = 6
        except LedgerError:  # it is the new identity's by now
            rounds = 5
        files = content(place)
        resign(place.folder, DATASET, old=place.identity, new=new, retired=kept)
        with Place(folder=place.folder, identity=new).open() as ledger:
            assert len(ledger.entries) == rounds
        if rounds > 5:
            written = {path.name: path.read_bytes() for path in kept.iterdir()}
            assert {name: data for name, data in written.items() if not name.endswith(".tmp")} == files
        if not killed:
            break
    assert step > 10


@pytest.mark.parametrize("line", [0, 1, 4])
def test_a_damaged_ledger_is_refused_and_left_as_it_is(filled, new, retired, line):
    lines = filled.file.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"e", b"f", 1)
    filled.file.write_bytes(b"".join(lines))
    before = content(filled)
    with pytest.raises(LedgerError, match="damaged"):
        resign(filled.folder, DATASET, old=filled.identity, new=new, retired=retired)
    assert content(filled) == before
    assert list(retired.iterdir()) == []


def test_a_ledger_of_a_third_identity_is_refused(filled, new, retired):
    with pytest.raises(LedgerError, match="not this client's ledger"):
        resign(filled.folder, DATASET, old=Identity.generate(), new=new, retired=retired)


def test_a_ledger_that_another_process_has_open_is_waited_for(filled, new, retired, monkeypatch):
    monkeypatch.setattr(Ledger.open.__func__, "__kwdefaults__", {"timeout": 0.1})
    with filled.open(), pytest.raises(LedgerError, match="another process has held"):
        resign(filled.folder, DATASET, old=filled.identity, new=new, retired=retired)
