"""What is trained: a model with its encoding, loss and metrics."""
