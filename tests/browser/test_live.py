"""The live page as people see it: on a desk, on a phone and on paper, in light and in dark."""

import re

import pytest

from fedtrain.errors import SiteError
from tests.browser.conftest import DESK, DESK_DARK, PAPER, PHONE, PHONE_DARK, VIEWS
from tests.browser.test_pages import MEASURE, SMALLEST
from tests.unit.status.test_web import HOSTILE, TOKEN, look, served, server_look


def alone(noise="secure"):
    """Return what `fedtrain watch --web` shows of a run."""
    (run,) = look(noise)["runs"]
    return {"runs": [{key: value for key, value in run.items() if key != "run"}]}


@pytest.fixture
def opened(browser):
    """Give a function that opens an address as somebody looks at it, once it shows something."""
    contexts = []

    def open_page(address, view):
        context = browser.new_context(viewport={"width": view.width, "height": 900}, color_scheme=view.scheme)
        contexts.append(context)
        page = context.new_page()
        page.emulate_media(media=view.media, color_scheme=view.scheme)
        page.goto(f"{address}#{TOKEN}")
        page.wait_for_selector("html[data-shown=yes]")
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_the_live_page_is_whole_and_says_each_thing_once(opened):
    papers = {}
    with served(alone) as address:
        for view in VIEWS:
            page = opened(address, view)
            found = page.evaluate(MEASURE, SMALLEST[view.media])
            assert {name: list(where) for name, where in found["problems"].items() if where} == {}, view
            papers[view] = page.evaluate("getComputedStyle(document.body).backgroundColor")
            words = page.inner_text("body")
            assert words.count("digits") == words.count("running") == 1
    with served(server_look) as address:
        found = opened(address, PHONE).evaluate(MEASURE, SMALLEST["screen"])
        assert {name: list(where) for name, where in found["problems"].items() if where} == {}
    assert papers[DESK] == papers[PHONE] == papers[PAPER] == "rgb(255, 255, 255)"
    for dark in (DESK_DARK, PHONE_DARK):
        assert sum(map(int, re.findall(r"\d+", papers[dark]))) < 120


def test_the_live_page_says_that_a_simulation_protects_nobody(opened):
    for noise, said in (("seeded", 1), ("secure", 0)):
        with served(lambda noise=noise: alone(noise)) as address:
            for view in (DESK, PHONE_DARK):
                page = opened(address, view)
                assert page.inner_text("body").count("simulation: protects nobody, since its noise is seeded") == said
                assert page.inner_text("thead").count("(simulated)") == said
                found = page.evaluate(MEASURE, SMALLEST["screen"])
                assert {name: list(where) for name, where in found["problems"].items() if where} == {}, view


def long(name):
    """Return what `fedtrain watch --web` shows of a run whose metric, and one of whose sites, has a long name."""
    found = alone()
    (run,) = found["runs"]
    sites = [*run["sites"], run["sites"][1] | {"name": name}]
    problems = [{"time": 1.0, "round": 2, "site": name, "reason": f"{name} " * 5}] * 200
    return {
        "runs": [run | {"metric": name, "value": 0.99999, "sites": sites, "late": [name] * 30, "problems": problems}]
    }


@pytest.mark.parametrize("name", ["W" * 100, HOSTILE], ids=["long", "markup"])
def test_a_name_hides_nothing_of_the_page(opened, name):
    with served(lambda: long(name)) as address:
        for view in VIEWS:
            page = opened(address, view)
            found = page.evaluate(MEASURE, SMALLEST[view.media])["problems"]
            # Such a name is no word, and may be broken.
            assert {what: list(where) for what, where in found.items() if where and what != "broken"} == {}, view
            words = page.inner_text("body")
            assert "0.9999\nbaseline 0.1000" in words
            assert f"{name} and 10 more" in words
            assert page.evaluate("document.documentElement.scrollHeight") < 9000


def test_a_page_without_an_answer_says_so_in_its_head_and_recovers(opened):
    broken = False

    def looking():
        if broken:
            raise SiteError("cannot read run/nodes.json: gone")
        return alone()

    with served(looking) as address:
        page = opened(address, PHONE)
        assert page.inner_text("#state") == "running"
        broken = True
        page.wait_for_selector("#state.bad")
        assert page.inner_text("#state") == (
            "not up to date, this page has no answer: cannot read run/nodes.json: gone"
        )
        assert page.get_attribute("#state", "class") == "bad"
        assert "round\n3 of 4" in page.inner_text("main")
        broken = False
        page.wait_for_selector("#state:not(.bad)")
        assert page.inner_text("#state") == "running"


@pytest.mark.parametrize("view", [DESK, PHONE_DARK], ids=str)
@pytest.mark.parametrize("looking", [lambda: alone("seeded"), server_look], ids=["run", "server"])
def test_the_live_page_can_be_used_by_everyone(opened, looking, view):
    from axe_playwright_python.sync_playwright import Axe

    with served(looking) as address:
        page = opened(address, view)
        found = Axe().run(page, options={"resultTypes": ["violations"], "preload": False})
    assert [(rule["id"], [node["html"][:120] for node in rule["nodes"]]) for rule in found.response["violations"]] == []
