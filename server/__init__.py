"""The Flower ServerApp: composition, central evaluation, checkpoints."""
