"""A real Chromium, and the pages that it is shown. Nothing is fetched: a page that asks for anything fails."""

import shutil
from dataclasses import dataclass

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True, kw_only=True)
class View:
    """How a page is looked at."""

    name: str
    width: int
    scheme: str
    media: str = "screen"

    def __str__(self):
        return self.name


DESK = View(name="desk", width=1280, scheme="light")
DESK_DARK = View(name="desk, dark", width=1280, scheme="dark")
PHONE = View(name="phone", width=390, scheme="light")
PHONE_DARK = View(name="phone, dark", width=390, scheme="dark")
PAPER = View(name="paper", width=690, scheme="dark", media="print")  # A4 less its margins; dark is for screens
VIEWS = (DESK, DESK_DARK, PHONE, PHONE_DARK, PAPER)


@pytest.fixture(scope="session")
def chromium():
    """Give the path of a Chromium."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    return found


# No longer than a module: where it runs, asyncio has a loop.
@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def look(browser):
    """Give a function that opens a page as somebody looks at it."""
    opened = []

    def open_page(html, view):
        context = browser.new_context(viewport={"width": view.width, "height": 900}, color_scheme=view.scheme)
        opened.append(context)
        page = context.new_page()
        page.route("**/*", lambda route: pytest.fail(f"the page asks for {route.request.url}"))
        page.emulate_media(media=view.media, color_scheme=view.scheme)
        page.set_content(html)
        return page

    yield open_page
    for context in opened:
        context.close()
