"""Whether a node's ledgers hold, and what they leave of the budget."""

from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from fedtrain.crypto import Identity
from fedtrain.errors import FedtrainError, KeyFileError, LedgerError
from fedtrain.health.check import Check, fails, ok, warns
from fedtrain.ledger import Ledger, SitePolicy, dataset_key, spent
from fedtrain.report.numbers import upper

_PATIENCE = 2.0  # seconds for a client that is just writing
_SHOWN = 12  # letters of a data set's digest


def ledgers(folder: Path, policy: SitePolicy) -> Iterator[Check]:
    """Verify each ledger in a node's folder. What a crash tore is completed, as at every opening; no entry is made."""
    files = sorted((folder / "ledgers").glob("*.jsonl"))
    key = folder / "dataset.key"
    if files and not key.exists():
        yield fails(
            "ledgers",
            f"{key} is gone, and with a new one every data set would have a new budget; put it back from a copy",
        )
        return
    if not files:
        yield ok("ledgers", "nothing was spent yet")
        return
    try:
        dataset_key(key)
        own = Identity.load(folder / "identity.pem")
    except KeyFileError as error:
        yield fails("ledgers", f"not verified: {error}")
        return
    for file in files:
        yield _ledger(file, own, policy)


def _ledger(file: Path, own: Identity, policy: SitePolicy) -> Check:
    name = f"data set {file.stem[:_SHOWN]}"
    try:
        with Ledger.open(file.parent, dataset=file.stem, identity=own, timeout=_PATIENCE) as ledger:
            entries = ledger.entries
        epsilon = spent(entries, policy.delta)
    except LedgerError as error:
        if isinstance(error.__cause__, Timeout):
            return warns(name, "not verified: a run is writing its ledger; try again later")
        return fails(name, str(error))
    except FedtrainError as error:
        return fails(name, str(error))
    left = f"epsilon {upper(epsilon)} of {policy.epsilon:g} is spent, at delta {policy.delta:g}"
    if epsilon >= policy.epsilon:
        return warns(name, f"{len(entries)} entries hold; {left}: this data set trains in no further round")
    return ok(name, f"{len(entries)} entries hold; {left}")
