"""Privacy-preserving federated learning that a data owner can believe."""

__version__ = "0.1.0"
