"""The server of a run: enrollment, rounds, central evaluation, checkpoints, the report."""
