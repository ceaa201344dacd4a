"""Check a report as a third party: from its bytes and pinned keys alone, trusting nothing that it says."""

from fedtrain.audit.run import CHECKS, audit, read_report
from fedtrain.audit.verdict import Check, Verdict

__all__ = ["CHECKS", "Check", "Verdict", "audit", "read_report"]
