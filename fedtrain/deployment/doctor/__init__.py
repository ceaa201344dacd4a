"""Checks of a node's or a server's folder and of what surrounds it, each ok or with what to do."""
