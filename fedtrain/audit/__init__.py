"""The audit of a report by a third party: from its bytes and pinned keys alone, without trust in any of it."""

from fedtrain.audit.run import CHECKS, audit, read_report, refuted
from fedtrain.audit.verdict import Check, Verdict

__all__ = ["CHECKS", "Check", "Verdict", "audit", "read_report", "refuted"]
