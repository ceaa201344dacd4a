"""Each row of the page on false epsilons names tests that exist, and how grave it is, and sources that are listed."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/explanation/false-epsilons.md").read_text()
SUITE = "tests/unit/privacy/test_false_epsilons.py"
TABLES, SOURCES = PAGE.split("## Measured")[0], PAGE.split("## Sources")[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TABLES.splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| what happens"))
]


def in_file(file):
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def named(cell):
    return re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cell)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_a_row_names_tests_that_exist(row):
    what, where, severity, here, tests, sources = row
    assert all((what, where, here))
    assert re.match(r"(none|small|large|total)\b", severity)
    assert named(tests), "no test"
    assert len(named(tests)) == tests.count("::")
    for file, test in named(tests):
        assert test in in_file(file), f"{file} has no {test}"
    listed = {int(number) for number in re.findall(r"^(\d+)\. ", SOURCES, flags=re.MULTILINE)}
    assert sources == "-" or {int(number) for number in sources.split(", ")} <= listed


def test_the_rows_are_read():
    assert len(ROWS) == TABLES.count("::test_") - sum(len(named(row[4])) - 1 for row in ROWS)
    assert len(ROWS) > 40


def test_every_test_of_the_suite_is_on_the_page():
    assert {test for file, test in named(TABLES) if file == SUITE} == in_file(SUITE)


def test_every_source_is_used():
    used = {int(number) for row in ROWS for number in re.findall(r"\d+", row[5])}
    assert used == set(range(1, len(re.findall(r"^\d+\. ", SOURCES, flags=re.MULTILINE)) + 1))
