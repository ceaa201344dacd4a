"""The client of a run: policy, reservation, training, reply."""
