"""The grids of a run, one around another: each adds what the mode needs."""

from collections.abc import Mapping

from flwr.serverapp import Grid

from fedtrain.flower import protocol
from fedtrain.flower.checked import CheckedGrid
from fedtrain.flower.ledgered import LedgerGrid
from fedtrain.flower.participation import DrawnGrid, ParticipationGrid
from server.preparation import Preparation
from server.proof import Proof

_METRICS = {
    "none": frozenset({protocol.WEIGHT, protocol.LOSS}),
    "record": frozenset({protocol.WEIGHT}),
    "client": frozenset({protocol.WEIGHT, protocol.WITHIN_CLIP}),
}


def compose(
    grid: Grid, clients: Mapping[int, int], preparation: Preparation, proof: Proof | None, *, done: int
) -> tuple[Grid, DrawnGrid | None]:
    """Return the grid that the strategy sees, and the one that draws Poisson cohorts, where there are such.

    Args:
        grid: where the clients are.
        clients: the client of each node.
        preparation: what was made before.
        proof: the record of a private run; ``None`` without privacy.
        done: rounds that are complete.
    """
    federation, mode = preparation.experiment.federation, preparation.experiment.privacy.mode
    if proof is not None:
        grid = LedgerGrid(
            grid,
            clients=clients,
            copies=proof.copies,
            refused=proof.refused,
            run=proof.run,
            plan=proof.plan.digest,
            per_round=not proof.withheld,
        )
    checked = CheckedGrid(
        grid,
        metrics=_METRICS[mode],
        weight_key=protocol.WEIGHT,
        public_weight=None if proof is None else 1.0,
        indicator=protocol.WITHIN_CLIP if mode == "client" else None,
    )
    if proof is not None and proof.withheld:
        drawn = DrawnGrid(checked)
        return drawn, drawn
    return (
        ParticipationGrid(
            checked,
            clients=clients,
            maximum=federation.rounds if proof is None else proof.plan.spec.rounds,
            cohort=federation.cohort,
            counts={} if proof is None else proof.participations(done=done),
            refused=() if proof is None else proof.refused,
        ),
        None,
    )
