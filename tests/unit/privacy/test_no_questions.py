"""Nothing asks which mode, unit or neighbours there are, but the mechanisms themselves and the configuration."""

import ast
from pathlib import Path

import pytest

import fedtrain

PACKAGE = Path(fedtrain.__file__).parent
ASKED = {"mode", "unit", "neighbouring", "cohorts"}
ALLOWED = (
    "privacy/mechanisms/",
    "config/",
    "data/cache.py",  # modes of files
    "data/sources/images.py",  # modes of images
    "privacy/spec.py",  # what a unit is
)


def name_of(node):
    return getattr(node, "attr", None) or getattr(node, "id", None)


def is_asked(node):
    """Say whether it is such a value, or one that a run config has."""
    return name_of(node) in ASKED or (isinstance(node, ast.Call) and "privacy.mode" in map(value_of, node.args))


def value_of(node):
    return getattr(node, "value", None)


def constant(node):
    """Say whether it is a text, or holds texts that are written out."""
    parts = getattr(node, "elts", [node])
    return any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts)


def is_question(node):
    """Say whether a value that tells mechanisms apart is compared with a text, looked up, or matched."""
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
        return any(is_asked(part) for part in parts) and any(constant(part) for part in parts)
    if isinstance(node, ast.Subscript):
        return isinstance(node.ctx, ast.Load) and name_of(node.slice) in ASKED
    if isinstance(node, ast.Match):
        return name_of(node.subject) in ASKED
    return name_of(node) == "secret_cohorts"


def questions(text):
    return sorted({node.lineno for node in ast.walk(ast.parse(text)) if is_question(node)})


def test_no_question_stands_elsewhere():
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if not str(path.relative_to(PACKAGE)).startswith(ALLOWED)
        for line in questions(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        'if experiment.privacy.mode == "none": pass',
        'if "client" != spec.unit: pass',
        'if privacy.mode in ("record", "client"): pass',
        'if mode not in {"none"}: pass',
        'if run_config.get("privacy.mode") == "none": pass',
        "metrics = METRICS[mode]",
        "words = WORDS[spec.neighbouring]",
        "if experiment.privacy.secret_cohorts: pass",
        'match privacy.mode:\n    case "none": pass',
    ],
)
def test_each_kind_of_question_is_found(text):
    assert questions(text) == [1]


@pytest.mark.parametrize(
    "text", ["if opened.mode != report.privacy.mode: pass", "if privacy.mode not in policy.modes: pass"]
)
def test_a_comparison_of_what_two_say_is_no_question(text):
    assert questions(text) == []
