import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOADS = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


def build(configuration, site):
    """Do what `make docs` does, into another folder."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", configuration, "--site-dir", site],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


class Assets(HTMLParser):
    """Collects what a browser loads to show a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name == LOADS.get(tag)]


def assets(page):
    parser = Assets()
    parser.feed(page.read_text())
    return parser.found


def test_the_navigation_has_each_page_once():
    listed = re.findall(r"^ +- (?:\w+: )?([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    docs = ROOT / "docs"
    assert sorted(listed) == sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.md"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    built = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert built.returncode == 0, built.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    sources = list((ROOT / "docs").rglob("*.md"))
    assert len(pages) == len(sources) + 1  # and the page for a page that does not exist
    for page in pages:
        assert assets(page), page
        assert [asset for asset in assets(page) if "//" in asset] == [], page
        # The theme loads Mermaid from another server for a page that has a diagram in it.
        assert 'class="mermaid"' not in page.read_text(), page
    for style in (tmp_path / "site").rglob("*.css"):
        assert "url(http" not in style.read_text(), style
    reference = tmp_path / "site" / "reference" / "library" / "errors.html"
    assert 'id="fedtrain.errors.FedtrainError"' in reference.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("[gone](gone.md)", "'gone.md'"),
        ("[gone](#gone)", "'#gone'"),
        ("[out](/srv/page.md)", "absolute"),
    ],
)
def test_a_broken_link_stops_the_build(page, problem, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").write_text(f"# Start\n\n{page}\n")
    (tmp_path / "docs" / "site.css").touch()
    (tmp_path / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nplugins: [search]\nnav: [README.md]\n"
    )
    built = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert built.returncode == 1
    assert problem in built.stderr
    assert "1 warnings in strict mode" in built.stdout
