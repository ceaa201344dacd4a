"""The Flower ServerApp of an experiment."""
