"""Sealed messages: what a server and its clients send each other is for the two of them alone."""
