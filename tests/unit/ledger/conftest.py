from dataclasses import dataclass
from pathlib import Path

import pytest

from fedtrain.crypto import Identity
from fedtrain.ledger import Ledger, SitePolicy
from fedtrain.privacy import SampledGaussian

DATASET = "d" * 64
EVENT = SampledGaussian(sampling_rate=0.01, noise_multiplier=1.5, steps=10)
POLICY = SitePolicy(epsilon=8.0, delta=1e-5)


@dataclass(frozen=True)
class Place:
    """A ledger's folder and key, and short ways to use it."""

    folder: Path
    identity: Identity

    @property
    def file(self):
        return self.folder / f"{DATASET}.jsonl"

    @property
    def intent(self):
        return self.folder / f"{DATASET}.intent"

    @property
    def stated(self):
        return self.folder / f"{DATASET}.stated"

    def open(self, **changes):
        return Ledger.open(self.folder, **{"dataset": DATASET, "identity": self.identity} | changes)

    @staticmethod
    def reserve(
        ledger,
        round_number=1,
        *,
        repeatable=False,
        model="b" * 64,
        run="run",
        event=EVENT,
        unit="record",
        noise="seeded",
    ):
        return ledger.reserve(
            run=run,
            round_number=round_number,
            plan="a" * 64,
            model=model,
            event=event,
            repeatable=repeatable,
            unit=unit,
            noise=noise,
        )

    @staticmethod
    def state(ledger, round_number, *, run="run", **changes):
        return ledger.statement(run=run, round_number=round_number, **{"policy": POLICY} | changes)


@pytest.fixture
def place(tmp_path):
    return Place(folder=tmp_path / "ledgers", identity=Identity.load_or_create(tmp_path / "identity.pem"))


@pytest.fixture
def filled(place):
    """A ledger of two settled rounds and one that is reserved."""
    with place.open() as ledger:
        for number in (1, 2):
            ledger.settle(place.reserve(ledger, number), f"{number:064x}")
        place.reserve(ledger, 3)
    return place
