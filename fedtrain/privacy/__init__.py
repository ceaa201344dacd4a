"""Privacy plans and their accounting."""
