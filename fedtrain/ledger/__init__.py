"""What was spent on each data set, signed and durable, and the signed record of each run."""

from fedtrain.ledger.budget import check, rounds_left, spent
from fedtrain.ledger.chain import EMPTY, Head, read_chain
from fedtrain.ledger.charges import Totals, unanswered
from fedtrain.ledger.copies import LedgerCopyStore
from fedtrain.ledger.dataset import dataset_digest, dataset_key
from fedtrain.ledger.entry import LedgerEntry, now, today
from fedtrain.ledger.log import Ledger
from fedtrain.ledger.record import (
    Asked,
    ClientKey,
    Closed,
    Completed,
    Drop,
    Enrolled,
    FirstRecord,
    Record,
    RunLog,
    SecureSum,
    Update,
    enrolled_keys,
    named_clients,
    read_records,
)
from fedtrain.ledger.site import (
    SiteFile,
    SitePolicy,
    client_folder,
    clients_with_ledgers,
    find_policies,
    find_policy,
    find_site_file,
    read_policy,
    read_site_file,
)
from fedtrain.ledger.statement import Statement, read_statement

__all__ = [
    "EMPTY",
    "Asked",
    "ClientKey",
    "Closed",
    "Completed",
    "Drop",
    "Enrolled",
    "FirstRecord",
    "Head",
    "Ledger",
    "LedgerCopyStore",
    "LedgerEntry",
    "Record",
    "RunLog",
    "SecureSum",
    "SiteFile",
    "SitePolicy",
    "Statement",
    "Totals",
    "Update",
    "check",
    "client_folder",
    "clients_with_ledgers",
    "dataset_digest",
    "dataset_key",
    "enrolled_keys",
    "find_policies",
    "find_policy",
    "find_site_file",
    "named_clients",
    "now",
    "read_chain",
    "read_policy",
    "read_records",
    "read_site_file",
    "read_statement",
    "rounds_left",
    "spent",
    "today",
    "unanswered",
]
