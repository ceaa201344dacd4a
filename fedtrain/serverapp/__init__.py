"""The server of a run: composition, rounds, central evaluation, checkpoints, the report."""
