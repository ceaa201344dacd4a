"""Runs side by side: what each reached, what it guarantees and what it cost, from their reports alone.

    from fedtrain.comparison import incomparable, read_runs, write_csv, write_plot

    runs = read_runs(["runs/plain", "runs/private"])
    incomparable(runs)
    write_csv("runs.csv", runs)
    write_groups("groups.csv", runs)
    write_plot("runs.svg", runs)

Drawing imports matplotlib, which takes a second, when it is called.
"""

from fedtrain.comparison.differences import differences, incomparable
from fedtrain.comparison.groups import GroupTable, group_comparison, group_rows, write_groups
from fedtrain.comparison.runs import ComparedRun, compared, read_runs
from fedtrain.comparison.table import comparison_table, rows, write_csv, write_plot

__all__ = [
    "ComparedRun",
    "GroupTable",
    "compared",
    "comparison_table",
    "differences",
    "group_comparison",
    "group_rows",
    "incomparable",
    "read_runs",
    "rows",
    "write_csv",
    "write_groups",
    "write_plot",
]
