import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page):
    """Return the text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """Return the anchors of the headings of a page, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem(page, target):
    """Say what is wrong with a link, if anything is."""
    name, _, anchor = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    if not file.is_relative_to(ROOT):
        return f"{target} leads out of the repository"
    if not file.exists():
        return f"{target} does not exist"
    if page.is_relative_to(ROOT / "docs") and not file.is_relative_to(ROOT / "docs"):
        return f"{target} is no part of the documentation site; write its path in backquotes"
    if anchor and anchor not in anchors(file):
        return f"{target}: there is no such heading; there are {sorted(anchors(file))}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    targets = [target for target in LINK.findall(prose(page)) if "://" not in target]
    assert [found for target in targets if (found := problem(page, target))] == []


def test_every_page_of_the_documentation_is_in_its_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target in LINK.findall(prose(index))}
    assert {page for page in PAGES if page.is_relative_to(index.parent)} - {index} <= linked


def test_a_broken_link_is_found():
    index = ROOT / "docs" / "README.md"
    assert problem(index, "tutorial/first-run.md") is None
    assert "does not exist" in problem(index, "tutorial/second-run.md")
    assert "no such heading" in problem(index, "tutorial/first-run.md#nowhere")
    assert "out of the repository" in problem(index, "../../elsewhere.md")
    assert "no part of the documentation site" in problem(index, "../README.md")
    assert problem(ROOT / "README.md", "CHANGELOG.md") is None
