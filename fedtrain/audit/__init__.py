"""The audit of a report by a third party: from its bytes and pinned keys alone, without trust in any of it."""

from fedtrain.audit.reading import read_report
from fedtrain.audit.run import CHECKS, audit, audit_bytes, lies_in_run_folder
from fedtrain.audit.verdict import EXIT_STATUS, Check, Verdict

__all__ = ["CHECKS", "EXIT_STATUS", "Check", "Verdict", "audit", "audit_bytes", "lies_in_run_folder", "read_report"]
