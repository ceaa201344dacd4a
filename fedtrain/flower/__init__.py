"""Adapters between fedtrain and Flower."""
