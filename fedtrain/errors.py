"""The errors of fedtrain, split by what the caller can do about them.

    FedtrainError
    +-- UsageError            the input cannot be used: correct it and run again (exit status 2)
    |   +-- ConfigError         a configuration field
    |   +-- DataError           a data set, or the way it is split over clients
    |   +-- TaskError           a task or a model, also one that cannot be trained privately
    |   |   +-- NotRecordsError   of whose layers one takes other rows than records (fedtrain.training.hooks)
    |   +-- PrivacySpecError    privacy parameters that cannot give the guarantee asked for
    |   +-- AppError            a folder that holds no Flower app that can be run
    |   +-- KeyFileError        a key file or roster that is missing, unreadable or readable by others
    |   +-- SiteError           a client's site file
    |   +-- ReportError         a report that cannot be read
    |   |   +-- ContradictionError  whose fields contradict each other: an audit refutes it
    +-- RunError              the run failed; what it saved is kept (exit status 1)
        +-- TooFewResultsError  fewer usable results in a round than the configured minimum
        +-- BudgetError         a step that a privacy budget does not allow (exit status 3)
        +-- StorageError        a checkpoint, a report or a cache that cannot be written or read
        |   +-- HistoryError        a history that is not the one of a checkpoint (fedtrain.serverapp.history)
        +-- LedgerError         a ledger or record that is damaged, or is not the one it should be
        +-- ForgeryError        a signature, a digest or a chain that does not hold
        +-- TransportError      a sealed message, a key or a message of secure aggregation that cannot be used
        +-- AggregationError    a secure aggregation that cannot be completed
        +-- ClientError         a client that cannot train
        +-- CodecError          bytes between the engine and a worker that are no message (fedtrain.engine.codec)
        +-- FrameError          likewise, no frame (fedtrain.engine.codec)

Catch `UsageError` for what you can correct, `RunError` for a run that can be resumed, `FedtrainError` for both. The
class attribute ``exit_status`` is the exit status of a command that ends with the error.
"""


class FedtrainError(Exception):
    """Base of all errors that fedtrain raises on purpose."""

    exit_status = 1


class UsageError(FedtrainError):
    """The input cannot be used. Nothing was run."""

    exit_status = 2


class ConfigError(UsageError):
    """A configuration field is unknown, has a wrong type, or has a value that is not allowed."""


class DataError(UsageError):
    """A data set is missing, unreadable, malformed, or cannot be split as asked."""


class TaskError(UsageError):
    """A task or model cannot be used as configured."""


class PrivacySpecError(UsageError):
    """The privacy parameters cannot give the guarantee that is asked for."""


class AppError(UsageError):
    """A folder does not hold a Flower app that can be run."""


class KeyFileError(UsageError):
    """A key file or a roster is missing, unreadable, malformed, or can be read by others."""


class SiteError(UsageError):
    """A client's site file cannot be used."""


class ReportError(UsageError):
    """A report cannot be read."""


class ContradictionError(ReportError):
    """A report whose fields contradict each other."""


class RunError(FedtrainError):
    """The run started and then failed. What it saved is kept."""


class TooFewResultsError(RunError):
    """A round ended with fewer usable results than the configured minimum."""


class BudgetError(RunError):
    """A step was refused because a privacy budget does not allow it. What was reached is kept."""

    exit_status = 3


class StorageError(RunError):
    """A file of the run could not be written or read."""


class LedgerError(RunError):
    """A ledger or a run's record is damaged, or is not the one that it should be. Nothing was trained."""


class ForgeryError(RunError):
    """A signature, a digest or a hash chain does not hold."""


class TransportError(RunError):
    """A sealed message, a key or a message of secure aggregation cannot be used. Nothing of it was."""


class AggregationError(RunError):
    """A secure aggregation cannot be completed. No update was revealed; another round can be begun."""


class ClientError(RunError):
    """A client cannot train."""
