"""The Flower ClientApp of an experiment."""
