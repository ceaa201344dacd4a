"""The report and the audit as people see them: on a desk, on a phone and on paper, in light and in dark."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fedtrain.audit import audit, read_report
from fedtrain.audit.verdict import render_audit
from fedtrain.explanation import Attribution, Example, Explanation, Piece, render_explanation
from fedtrain.report import Report
from fedtrain.report.evaluation import PerClass
from fedtrain.report.html import render_html
from tests.browser.conftest import DESK, DESK_DARK, PAPER, PHONE, PHONE_DARK, VIEWS
from tests.unit.audit.world import client_world
from tests.unit.report.conftest import plain_report

MEASURE = (Path(__file__).parent / "measure.js").read_text()
SMALLEST = {"screen": 11.99, "print": 9.3}  # letters, in pixels: 7 points on paper
LONG = ("automobile with a long name", "pneumonoultramicroscopicsilicovolcanoconiosis")


def usual():
    """Give a report with everything in it: warnings, owners, drops, a budget that the second opinion exceeds."""
    plain = plain_report()
    plain["warnings"] = ["accuracy 0.7607 after round 30 is no better than the baseline"]
    plain["evaluation"]["baseline"] = {"accuracy": 0.1123}
    plain["data"]["owners"] = [f"Hospital {number}" for number in range(10)]
    plain["privacy"]["budget"] = plain["privacy"]["epsilon"]
    for client in plain["privacy"]["clients"]:
        client["budget"] = 10.0
    return render_html(Report.model_validate_json(json.dumps(plain)))


def many():
    """Give a report of 13 classes with long names, 60 clients and 200 rounds."""
    names = (*LONG, *(f"class {number}" for number in range(11)))
    return render_html(Report.model_validate_json(json.dumps(plain_report(200, 60, 20, names, every=10))))


def audited(status="completed", *, tuning=None):
    world = client_world("capped", status=status)
    plain = world.report()
    if tuning is not None:
        plain["privacy"]["tuning"] = tuning
    report = read_report(json.dumps(plain).encode())
    verdict = audit(report, roster=world.roster)
    return render_audit(verdict, report, digest="5e" * 32, roster=world.roster.digest, files=1)


def explained():
    """Give an explanation of a picture and of a text, neither of them public."""
    draws = np.random.default_rng(0)

    def attribution(shape):
        values = draws.normal(size=shape)
        total = float(values.sum())
        return Attribution(method="integrated gradients", values=values, sum=total, difference=total, steps=50)

    words = ("the", "market", "internationalisation", "rises", "again", *("and", "again") * 40)
    pieces = tuple(Piece(text=f" {word}", tokens=(place,)) for place, word in enumerate(words))
    fixed = {"record": 3, "target": LONG[0], "predicted": "ship", "output": "ship", "value": 2.5, "baseline": -0.5}
    picture = draws.integers(0, 256, (3, 16, 16)).astype(np.uint8)
    examples = (
        Example(**fixed, picture=picture, pieces=(), attributions=(attribution((3, 16, 16)),)),
        Example(**fixed, picture=None, pieces=pieces, attributions=(attribution(len(pieces)),)),
    )
    facts = {"name": "news", "run": "5e" * 16, "weights": "5e" * 32, "which": "final", "public": False, "records": 90}
    return render_explanation(
        Explanation(**facts, over="the pixels", baseline="a black image", notes=("a note",), examples=examples)
    )


@pytest.fixture(scope="module")
def pages():
    return {
        "report": usual(),
        "many": many(),
        "audit": audited(),
        "refuted": audited(tuning="none"),
        "explanation": explained(),
    }


@pytest.mark.parametrize(
    ("name", "view"),
    [
        *((name, view) for name in ("report", "audit") for view in VIEWS),
        *((name, view) for name in ("many", "refuted") for view in (DESK, PHONE, PAPER)),
        *(("explanation", view) for view in (DESK_DARK, PHONE, PAPER)),
    ],
    ids=str,
)
def test_a_page_is_whole(look, pages, name, view):
    found = look(pages[name], view).evaluate(MEASURE, SMALLEST[view.media])
    assert {name: list(where) for name, where in found["problems"].items() if where} == {}


@pytest.mark.parametrize("view", [DESK, PHONE, PAPER], ids=str)
def test_what_somebody_writes_without_a_blank_makes_an_audit_no_wider(look, view):
    shown = look(audited(tuning="W" * 3000), view)
    assert shown.evaluate("document.documentElement.scrollWidth") <= view.width
    assert shown.evaluate("[...document.querySelectorAll('.wide')].every((one) => one.scrollWidth <= one.clientWidth)")


def test_the_page_is_dark_where_screens_are_and_paper_is_white(look, pages):
    papers = {view.name: look(pages["report"], view).evaluate(MEASURE, 0)["paper"] for view in (DESK, DESK_DARK, PAPER)}
    assert papers["desk"] == papers["paper"] == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", papers["desk, dark"]))) < 120


@pytest.mark.parametrize(
    ("name", "view"),
    [("report", DESK), ("report", PHONE_DARK), ("audit", DESK_DARK), ("explanation", DESK), ("explanation", DESK_DARK)],
    ids=str,
)
def test_a_page_can_be_used_by_everyone(look, pages, name, view):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(look(pages[name], view), options={"resultTypes": ["violations"], "preload": False})
    assert [(rule["id"], [node["html"][:120] for node in rule["nodes"]]) for rule in found.response["violations"]] == []


def test_a_thousand_classes_and_ten_thousand_clients_fit_a_phone(look):
    report = Report.model_validate_json(json.dumps(plain_report(3, classes=("no", "yes"), private=False)))
    names = tuple(f"kind {number}" for number in range(1000))
    data = report.data.model_copy(update={"classes": names, "clients": 10_000, "histogram": None})
    each = PerClass.model_validate(dict.fromkeys(("precision", "recall", "f1"), (0.5,) * 1000))
    final = report.evaluation.final.model_copy(update={"confusion": None, "per_class": each})
    evaluation = report.evaluation.model_copy(update={"final": final})
    histogram = np.zeros((10_000, 1000), np.int64)
    histogram[np.arange(10_000), np.arange(10_000) % 1000] = 3
    matrix = np.eye(1000, dtype=np.int64) * 5
    page = render_html(
        report.model_copy(update={"data": data, "evaluation": evaluation}),
        {"confusion/final": matrix, "histogram": histogram},
    )
    shown = look(page, PHONE)
    found = shown.evaluate(MEASURE, SMALLEST["screen"])
    assert {name: list(where) for name, where in found["problems"].items() if where} == {}
    assert shown.evaluate("document.documentElement.scrollHeight") < 30_000


def test_paper_keeps_together_what_belongs_together(look, pages):
    page = look(pages["report"], PAPER)
    style = (
        "element => { const s = getComputedStyle(element); return [s.breakAfter, s.breakInside, s.orphans, s.widows] }"
    )
    of = lambda selector: page.eval_on_selector_all(selector, f"found => found.map({style})")
    assert {rule[0] for rule in of("h2, h3, figcaption, thead")} == {"avoid"}
    assert {rule[1] for rule in of("figure, tr, li, .notice")} == {"avoid"}
    assert {tuple(rule[2:]) for rule in of("p")} == {("3", "3")}
    sheets = len(re.findall(rb"/Type /Page\b", page.pdf(prefer_css_page_size=True)))
    assert 3 <= sheets <= 12
