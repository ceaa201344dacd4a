"""The settings of the modes of privacy in which whole runs are tried, as ``--set`` takes them."""

SUMMED = ["transport.sealed=true", "transport.secagg.enabled=true"]
RECORD = ["privacy.mode=record", "privacy.sampling_rate=0.5", "privacy.epsilon=8.0", "privacy.delta=0.01"]
CLIENT = ["privacy.mode=client", "privacy.cohorts=capped", "privacy.epsilon=50.0", "privacy.delta=0.01"]
SHARED = ["privacy.trust=distributed", "privacy.colluders=0", *SUMMED]
FITTED = ["training.solver=least-squares", "privacy.sampling_rate=1.0"]

# Tokenizers: a file of the test's own, and words.
FILE = ["task.encoder=own.json", "task.encoder_origin=the words of a test"]
WORDS = ["task.encoder=words"]
