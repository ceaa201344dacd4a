"""Grids around grids: what the server does to each message, one stage after another."""
