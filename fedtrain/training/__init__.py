"""The local step at a client, plain and private."""
