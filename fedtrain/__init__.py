"""Privacy-preserving federated learning that a data owner can believe."""

import os

__version__ = "0.1.0"

# Nothing leaves the machine: Flower reads these when it is imported, so they are set before anything imports it.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
