"""Whatever is done to a ledger, in whatever order, and whenever it crashes: what was released is charged."""

import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedtrain.crypto import Identity
from fedtrain.errors import LedgerError
from fedtrain.ledger import Ledger, SitePolicy, read_chain, read_statement, spent
from fedtrain.privacy import SampledGaussian, epsilon_of

DATASET = "d" * 64
EVENT = SampledGaussian(sampling_rate=0.01, noise_multiplier=2.0, steps=5)
POLICY = SitePolicy(epsilon=8.0, delta=1e-5)
rounds = st.integers(1, 3)
runs = st.sampled_from(["seeded", "secure"])


class LedgerMachine(RuleBasedStateMachine):
    """A client that reserves, releases, crashes and starts again, with a count of what it released."""

    def __init__(self):
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name)
        self.file = self.folder / f"{DATASET}.jsonl"
        self.intent = self.folder / f"{DATASET}.intent"
        self.identity = Identity.generate()
        self.returned = Counter()  # of reservations that must be charged, by round and repeatability
        self.updates = Counter()
        self.reservations = []
        self.stated = Counter()  # the round of the newest statement, by run
        self.start()

    def start(self):
        self.ledger = Ledger.open(self.folder, dataset=DATASET, identity=self.identity, timeout=1)

    def reserve(self, number, repeatable):
        # Rounds that can be repeated and rounds that cannot are of different runs, as in practice.
        return self.ledger.reserve(
            run="seeded" if repeatable else "secure",
            round_number=number,
            plan="a" * 64,
            model="b" * 64,
            event=EVENT,
            repeatable=repeatable,
            unit="record",
            noise="seeded" if repeatable else "secure",
        )

    def refuses(self, number, repeatable):
        """Say whether a reservation is to be refused, and if so check that it is, and changes nothing."""
        run = "seeded" if repeatable else "secure"
        before = self.ledger.entries
        made = any((entry.run, entry.round) == (run, number) for entry in before)
        if number > self.stated[run] or (repeatable and made):
            return False
        with pytest.raises(LedgerError, match=f"did not train in round {self.stated[run]} of this run or before"):
            self.reserve(number, repeatable)
        assert self.ledger.entries == before
        return True

    def note(self, entry):
        if entry.run == "secure" or not self.returned[entry.run, entry.round]:
            self.returned[entry.run, entry.round] += 1
        self.reservations.append(entry)

    @rule(number=rounds, repeatable=st.booleans())
    def reserves(self, number, repeatable):
        if not self.refuses(number, repeatable):
            self.note(self.reserve(number, repeatable))

    @rule(run=runs, number=st.integers(0, 3))
    def states(self, run, number):
        """Also of a lower round than before, as when a run is resumed from there."""
        signed = self.ledger.statement(run=run, round_number=number, policy=POLICY)
        self.stated[run] = number
        statement = read_statement(signed, self.identity.public)
        assert (statement.sequence, statement.head) == (self.ledger.head.sequence, self.ledger.head.digest)

    @rule(run=runs, number=st.integers(0, 3), written=st.booleans())
    def crashes_while_it_states(self, run, number, written):
        """The statement was not returned; that it was made is on the disk, or is not."""
        file = self.file.with_suffix(".stated")
        before = file.read_bytes() if file.exists() else None
        self.ledger.statement(run=run, round_number=number, policy=POLICY)
        self.ledger.close()
        if written:
            self.stated[run] = number
        elif before is None:
            # Of a first statement before any round nothing is written: it binds to nothing.
            file.unlink(missing_ok=number == 0)
        else:
            file.write_bytes(before)
        self.start()

    @precondition(lambda self: self.reservations)
    @rule(data=st.data(), which=st.integers(0, 2))
    def settles(self, data, which):
        entry = data.draw(st.sampled_from(self.reservations))
        update = f"{which:064x}"
        key = (entry.run, entry.round)
        settled = {
            line.update for line in self.ledger.entries if line.status == "settled" and line.subject == entry.subject
        }
        paid = sum(line.status == "reserved" and line.subject == entry.subject for line in self.ledger.entries)
        try:
            assert self.ledger.settle(entry, update).update == update
        except LedgerError:
            assert update not in settled
            assert len(settled) == paid
        else:
            self.updates[key] += update not in settled

    @rule()
    def restarts(self):
        self.ledger.close()
        self.start()

    @rule(number=rounds, repeatable=st.booleans(), kept=st.floats(0, 1, exclude_max=True))
    def crashes_while_it_appends(self, number, repeatable, kept):
        """The line is in the intent, and a part of it in the ledger."""
        before = len(self.ledger.entries)
        if self.refuses(number, repeatable):
            return
        self.reserve(number, repeatable)
        self.ledger.close()
        if len(self.ledger.entries) > before:
            line = self.ledger.envelopes[-1].line()
            os.truncate(self.file, self.file.stat().st_size - len(line) + int(len(line) * kept))
        self.start()

    @rule(number=rounds, repeatable=st.booleans(), kept=st.floats(0, 1, exclude_max=True))
    def crashes_while_it_writes_the_intent(self, number, repeatable, kept):
        """The ledger is whole, and a part of the new intent has replaced the old one."""
        before, old = len(self.ledger.entries), self.intent.read_bytes() if self.intent.exists() else b""
        if self.refuses(number, repeatable):
            return
        self.reserve(number, repeatable)
        self.ledger.close()
        if len(self.ledger.entries) > before:
            line = self.ledger.envelopes[-1].line()
            cut = int(len(line) * kept)
            os.truncate(self.file, self.file.stat().st_size - len(line))
            self.intent.write_bytes(line[:cut] + old[cut:])
        self.start()

    @invariant()
    def what_was_released_is_charged(self):
        charged = Counter((entry.run, entry.round) for entry in self.ledger.entries if entry.status == "reserved")
        assert all(charged[key] >= count for key, count in self.returned.items())
        assert all(charged[key] >= count for key, count in self.updates.items())
        assert all(count == 1 for (run, _), count in charged.items() if run == "seeded")
        assert read_chain(self.ledger.envelopes, self.identity.public) == self.ledger.entries

    def teardown(self):
        total = sum(self.returned.values())
        released = SampledGaussian(sampling_rate=0.01, noise_multiplier=2.0, steps=5 * total)
        assert spent(self.ledger.entries, 1e-5) >= epsilon_of([released], 1e-5) * (1 - 1e-9)
        self.ledger.close()
        self.place.cleanup()


LedgerMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestLedger = LedgerMachine.TestCase


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("number", [0, 1])
def test_a_crash_in_the_first_statement_takes_no_charge_away(number, written):
    state = LedgerMachine()
    state.reserves(number=1, repeatable=False)
    state.crashes_while_it_states(number=number, run="secure", written=written)
    state.what_was_released_is_charged()
    state.reserves(number=1, repeatable=False)
    state.what_was_released_is_charged()
    state.teardown()
