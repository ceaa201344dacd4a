"""The workload on the local engine."""

from pathlib import Path

from flwr.app import Context, RecordDict
from workloads import SPEC, server

from fedtrain.engine import LocalGrid


def main() -> None:
    """Run the ServerApp here and the ClientApp on two workers."""
    with LocalGrid(
        client_app="workloads:client",
        app_dir=Path(__file__).resolve().parent,
        run_config={},
        nodes=SPEC["nodes"],
        workers=2,
        preload=tuple(SPEC["preload"]),
    ) as grid:
        server(grid, Context(grid.run.run_id, 1, {}, RecordDict(), {}))
