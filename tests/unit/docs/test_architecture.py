import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
GLOSSARY = ROOT / "docs" / "glossary.md"
NAMED = [PAGE, GLOSSARY, ROOT / "CONTRIBUTING.md"]


def places(text):
    """Return each folder and Python file that a text names in backquotes."""
    return re.findall(r"`([\w-]+(?:/[\w-]+)+(?:\.py)?)`", text)


def missing(text):
    """Return those that are neither in the repository nor in the library."""
    return [place for place in places(text) if not (ROOT / place).exists() and not (ROOT / "fedtrain" / place).exists()]


@pytest.mark.parametrize("page", NAMED, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page):
    assert len(places(page.read_text())) > 2
    assert missing(page.read_text()) == []


def test_a_place_that_is_gone_is_found():
    assert missing("`serverapp/rounds.py`, `fedtrain/ledger` and `tests/unit`") == []
    assert missing("`serverapp/desk.py`, `fedtrain/leash`") == ["serverapp/desk.py", "fedtrain/leash"]


def test_the_table_of_folders_is_in_the_order_of_the_imports():
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    layers = contracts["importlinter:contract:inside"]["layers"].strip().splitlines()
    ranks = {name.strip(): rank for rank, layer in enumerate(layers) for name in layer.split("|")}
    folders = "".join(re.findall(r"^\| `fedtrain/.*? \|", PAGE.read_text(), flags=re.MULTILINE))
    listed = re.findall(r"`fedtrain/(\w+)(?:\.py)?`", folders)
    assert sorted(listed) == sorted(ranks)
    assert [ranks[name] for name in listed] == sorted(ranks.values())


def test_the_glossary_has_each_term_once_and_in_one_or_two_sentences():
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `", GLOSSARY.read_text(), flags=re.MULTILINE)
    terms = [term for cell, _ in rows for term in cell.split(", ")]
    assert len(terms) == len(set(terms)) > 50
    for _, meaning in rows:
        assert 1 <= len(re.findall(r"\.(?:\s|$)", meaning)) <= 2, meaning
