import html.parser
import re
import time

import numpy as np
import pytest

from fedtrain.report import Evaluation
from fedtrain.report.evaluation import PerClass, slim
from fedtrain.report.html import render_html
from fedtrain.report.tables import confused

HOSTILE = '<script>alert("x")</script><img src="http://evil.example/x.png" onerror=alert(1)>'
VOID = {"meta", "link", "br"}


class Page(html.parser.HTMLParser):
    """Reads a page strictly: every element that is opened is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.links, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.links += [value for name, value in attrs if name in {"href", "src", "action", "data", "xlink:href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


def spend(privacy, epsilon):
    """Let every client have spent as much."""
    for client in privacy["clients"]:
        client.update(epsilon=epsilon, run_epsilon=epsilon)
    for accountant in privacy["accountants"]:
        accountant["epsilon"] = epsilon
    privacy.update(epsilon=epsilon, curve=[])


@pytest.fixture(scope="module")
def page(build, parse):
    """Give the page of the usual report."""
    return render_html(parse(build()))


def test_the_headline_says_what_was_reached_and_what_is_promised(plain, parse):
    spend(plain["privacy"], 7.501)
    plain["evaluation"]["final"]["accuracy"] = plain["evaluation"]["history"][-1]["accuracy"] = 0.99999
    plain["evaluation"]["best"] = {"round": 30, "accuracy": 0.99999}
    words = Page(render_html(parse(plain))).words
    assert "99.99 %" in words
    assert "100.00 %" not in words
    assert "7.51" in words
    assert "δ = 10⁻⁵" in words
    assert "30 of 30" in words
    assert "completed" in words
    assert plain["privacy"]["statement"] in words
    for text in plain["privacy"]["not_covered"]:
        assert text in words
    assert "read directly from the data, and epsilon does not cover them" in words


def test_the_page_says_what_the_transport_was(plain, parse):
    assert (
        "Transport: encrypted end to end in every round; the server saw single updates."
        in Page(render_html(parse(plain))).words
    )
    cohort = plain["round_log"][1]["cohort"]
    plain["round_log"][0]["sealed"] = False
    plain["round_log"][1].update(completed=cohort, dropped=[])
    plain["round_log"][1]["secagg"] = {
        "threshold": 7,
        "neighbours": 9,
        "bits": 16,
        "lost_masking": 0,
        "lost_unmasking": 2,
    }
    assert (
        "Transport: encrypted end to end in 29 of 30 rounds; the server saw the sum of the updates alone in 1 of 30 "
        "rounds; clients lost before their update was in the sum: 0, after: 2."
    ) in Page(render_html(parse(plain))).words


def test_every_section_is_there(page):
    for name in ("evaluation", "privacy", "data", "rounds", "configuration", "model"):
        assert f'<section id="{name}">' in page
        assert f'href="#{name}"' in page
    assert page.count("<svg") == 6
    words = Page(page).words
    for text in ("no answer within 600 s", "dirichlet", "1f" * 32, "python 3.11.9", "Poisson-sampled Gaussian"):
        assert text in words


def test_the_page_asks_nothing_of_a_network(page):
    read = Page(page)
    assert all(link.startswith(("#", "data:")) for link in read.links)
    assert not {"script", "img", "iframe", "object", "embed", "form"} & set(read.tags)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "default-src 'none'" in page


def test_the_same_report_gives_the_same_page(plain, parse, page):
    assert render_html(parse(plain)) == page


def test_text_of_users_is_escaped_everywhere(plain, parse):
    plain["name"] = HOSTILE
    plain["status"], plain["reason"] = "interrupted", HOSTILE
    plain["config"] = {f"{HOSTILE}.{HOSTILE}": HOSTILE}
    plain["data"]["kind"] = HOSTILE
    plain["data"]["classes"][2] = HOSTILE
    plain["round_log"][0].update(completed=[], dropped=[{"client": 1, "reason": HOSTILE}])
    plain["model"]["final"]["file"] = HOSTILE
    plain["software"] = {HOSTILE: HOSTILE}
    plain["fedtrain"] = HOSTILE
    plain["privacy"].update(
        statement=HOSTILE,
        not_covered=[HOSTILE],
        accesses_not_covered=[HOSTILE],
        adversaries=[{"who": HOSTILE, "sees": HOSTILE, "bounded": False, "by": HOSTILE}],
        trusted=[HOSTILE],
        random_source=HOSTILE,
        composition=HOSTILE,
        tuning=HOSTILE,
    )
    for accountant in plain["privacy"]["accountants"]:
        accountant.update(name=HOSTILE, version=HOSTILE, note=HOSTILE)
    plain["privacy"]["sampling"]["reason"] = HOSTILE
    for entry in (plain["evaluation"]["final"], plain["evaluation"]["history"][-1]):
        entry[HOSTILE] = {HOSTILE: 1.0}
    text = render_html(parse(plain))
    page = Page(text)
    assert "<script" not in text
    assert not {"script", "img"} & set(page.tags)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert page.words.count("<script>") >= 15


@pytest.mark.parametrize("private", [True, False])
def test_what_the_model_writes_is_shown_as_text_and_with_what_it_may_repeat(build, parse, private):
    report = build(rounds=3, private=private)
    report["sample"] = {"texts": [HOSTILE, "two\nlines", "\x1b[2J\u202e", ""], "tokens": 200, "temperature": 0.8}
    text = render_html(parse(report))
    page = Page(text)
    assert "<script" not in text
    assert "two\nlines</pre>" in text
    assert not set("\x1b\u202e") & set(text)
    assert text.count('<pre class="sample">') == 4
    assert ("may be the words of a record" in page.words) != private
    assert ("they tell no more of a record than it does" in page.words) == private


def test_a_run_without_privacy_says_so(build, parse):
    words = Page(render_html(parse(build(rounds=3, private=False)))).words
    assert words.count("No privacy guarantee") == 2
    assert "ε" not in words
    assert "Mechanism" not in words


def test_a_run_that_failed_before_its_first_round_has_a_page(build, parse):
    plain = build(rounds=0)
    plain.update(status="failed", reason="the disk is full", planned_rounds=10, config={}, software={})
    plain["model"].update(final=None, best=None)
    plain["data"].update(train_records=None, histogram=None, classes=[])
    words = Page(render_html(parse(plain))).words
    assert "The run failed after 0 of 10 rounds: the disk is full" in words
    for text in ("never evaluated", "No round was run", "known to the clients only", "0 of 10"):
        assert text in words


def test_an_exceeded_budget_is_said_aloud(plain, parse, page):
    assert "budget is exceeded" not in page
    plain["privacy"]["budget"] = 7.0
    assert "A budget is exceeded: this run charged epsilon 7.20, more than 7" in Page(render_html(parse(plain))).words


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (0.7, "0.70 , at most 2.02, and up to 10⁻⁵ more"),
        (8.0, "8.00 , at most 2,981, and up to 10⁻⁵ more. If it seems"),
        (900.0, "An epsilon of 900.00 is very large"),
    ],
)
def test_epsilon_is_put_in_plain_numbers(build, parse, epsilon, text):
    plain = build(rounds=1)
    spend(plain["privacy"], epsilon)
    plain["privacy"].update(budget=None)
    words = Page(render_html(parse(plain))).words
    assert text in words
    assert "budget" not in words


def test_a_task_with_its_own_measurements_has_a_page(plain, parse):
    own = [{"round": number, "word_error": 1 / number, "levels": [1, 2]} for number in range(1, 31)]
    plain["evaluation"] = {"final": own[-1], "best": None, "history": own}
    page = render_html(parse(plain))
    words = Page(page).words
    assert "Word_error on the test records" in words
    assert "word_error 0.03333333333333333" in words
    assert "levels [1, 2]" in words
    assert page.count("<svg") == 3


def test_a_task_may_measure_other_classes_than_the_data_has(plain, parse):
    for entry in (plain["evaluation"]["final"], plain["evaluation"]["history"][-1]):
        entry["confusion"] = [[3, 1], [0, 4]]
        entry["per_class"] = {"precision": [1.0, 0.8], "recall": [0.75, 1.0], "f1": [0.85, 0.88]}
    assert "<td>0</td><td>100.00 %</td><td>75.00 %</td><td>85.00 %</td><td>4</td>" in render_html(parse(plain))


def test_areas_of_classes_and_thresholds_are_shown(plain, parse):
    rows = [{"threshold": 0.05, "called": 1234, "precision": 0.25, "recall": 1.0, "specificity": 0.123456}]
    for entry in (plain["evaluation"]["final"], plain["evaluation"]["history"][-1]):
        entry["confusion"] = [[3, 1], [0, 4]]
        entry["per_class"] = {"precision": [1.0, 0.8], "recall": [0.75, 1.0], "f1": [0.85, 0.88]}
        entry["per_class"] |= {"auroc": [0.987654, 0.5], "average_precision": [0.9, None]}
        entry |= {"thresholds": rows, "balanced_accuracy": 0.875}
    report = parse(plain)
    assert not slim(report.evaluation.final).thresholds
    assert report.model_dump(mode="json")["evaluation"]["final"]["thresholds"] == rows
    page = render_html(report)
    assert (
        "<td>0</td><td>100.00 %</td><td>75.00 %</td><td>85.00 %</td><td>98.76 %</td><td>90.00 %</td><td>4</td>" in page
    )
    assert "<td>88.00 %</td><td>50.00 %</td><td>undefined</td>" in page
    assert "<td>0.05</td><td>1,234</td><td>25.00 %</td><td>100.00 %</td><td>12.34 %</td>" in page
    assert "By threshold on the probability of one</h3>" in page


def test_a_thousand_clients_and_five_hundred_rounds_are_summed_up(build, parse):
    report = parse(build(rounds=500, clients=1000, cohort=40, every=50, classes=tuple(f"kind {n}" for n in range(60))))
    start = time.process_time()
    page = render_html(report)
    assert time.process_time() - start < 3
    assert len(page.encode()) < 2_000_000
    words = Page(page).words
    for text in ("of 1,000; the median client spent", "Each row sums up to 25 rounds", "1 to 25", "476 to 500"):
        assert text in words
    assert "20 classes with the lowest F1, of 60" in words
    asked = re.findall(r"<tr><td>\d+ to \d+</td><td>([\d,]+)</td>", page)
    assert sum(int(number.replace(",", "")) for number in asked) == 500 * 40


def test_a_thousand_classes_and_ten_thousand_clients_have_a_page(build, parse):
    names = tuple(f"kind {number}" for number in range(1000))
    plain = build(rounds=3, clients=10, classes=tuple(f"kind {number}" for number in range(10)), private=False)
    report = parse(plain)
    matrix = np.eye(1000, dtype=np.int64) * 5
    matrix[7, 8], matrix[8, 7], matrix[900, 1] = 15, 3, 4
    each = PerClass.model_validate(dict.fromkeys(("precision", "recall", "f1"), (0.5,) * 1000))
    final = report.evaluation.final.model_copy(update={"confusion": None, "per_class": each})
    data = report.data.model_copy(update={"classes": names, "clients": 10_000, "histogram": None})
    evaluation = report.evaluation.model_copy(update={"final": final})
    report = report.model_copy(update={"evaluation": evaluation, "data": data})
    histogram = np.zeros((10_000, 1000), np.int64)
    histogram[np.arange(10_000), np.arange(10_000) % 1000] = 3
    start = time.process_time()
    page = render_html(report, {"confusion/final": matrix, "histogram": histogram})
    assert time.process_time() - start < 20
    assert len(page.encode()) < 1_000_000
    # The pairs that a picture of a million cells cannot show.
    rows = re.findall(r"<tr><td>(kind \d+)</td><td>(kind \d+)</td><td>(\d+)</td><td>([\d.]+) %</td></tr>", page)
    assert rows == [
        ("kind 7", "kind 8", "15", "75.00"),
        ("kind 900", "kind 1", "4", "44.44"),
        ("kind 8", "kind 7", "3", "37.50"),
    ]
    words = Page(page).words
    assert "10,000 clients in order of size" in words
    assert "20 classes with the lowest F1, of 1,000" in words


def test_pairs_of_few_classes_are_in_the_picture(page):
    assert "Classes taken for others" not in page


def test_of_very_many_pairs_the_most_frequent_are_shown(plain, parse):
    report = parse(plain)
    matrix = np.ones((30, 30), np.int64) + np.diag(np.full(30, 9))
    names = tuple(f"n{number}" for number in range(30))
    table = confused(Evaluation(round=1, confusion=tuple(map(tuple, matrix.tolist()))), names)
    assert [row[:3] for row in table.rows[:2]] == [("n0", "n1", "1"), ("n0", "n2", "1")]
    assert len(table.rows) == 20
    assert table.note == "The 20 most frequent of 870 pairs; report.json has the whole matrix."
    assert confused(report.evaluation.final, report.data.classes) is None


def test_reasons_are_counted_and_the_most_frequent_come_first(build, parse):
    plain = build(rounds=40)
    for entry in plain["round_log"]:
        number = entry["round"]
        reason = f"only in round {number}" if number > 10 else "often"
        entry.update(completed=[], dropped=[{"client": number % 10, "reason": reason}])
    page = render_html(parse(plain))
    cells = r'<td role="cell" data-label="reason">(often|only in round \d+)</td>'
    cells += r'<td role="cell" data-label="results">(\d+)</td><td role="cell" data-label="rounds">([^<]*)</td>'
    rows = re.findall(cells, page)
    assert rows[0] == ("often", "10", "1, 2, 3, 4, 5, 6, 7, 8 and 2 more")
    assert len(rows) == 20
    assert "The 20 most frequent of 31 reasons" in page


def test_the_page_holds_the_numbers_of_the_report(plain, page):
    for client in plain["privacy"]["clients"]:
        cells = (client["client"], "7.20", "7.20", 30, 0, 360, 60)
        assert "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" in page
    for row, name in zip(plain["evaluation"]["final"]["confusion"], plain["data"]["classes"], strict=True):
        assert re.search(rf"<tr><td>{name}</td>(<td>\d+\.\d\d %</td>){{3}}<td>{sum(row):,}</td></tr>", page)


def test_a_compliance_officer_finds_who_is_protected_against_whom_and_how_to_check(plain, parse):
    for client in plain["privacy"]["clients"]:
        client["budget"] = 10.0
    plain["privacy"]["clients"][2]["unanswered"] = [3, 4]
    words = Page(render_html(parse(plain))).words
    for heading in (
        "What the numbers mean",
        "Who is protected against whom",
        "Whom this relies on",
        "How to check this",
    ):
        assert heading in words
    assert "whoever gets the model the final model yes epsilon" in words
    assert "the network every message no nothing is encrypted" in words
    assert "each client draws in secret Epsilon relies on this draw." in words
    assert "claim PLD (0.6.0) 7.20 second opinion PRV (1.6.0) 7.28" in words
    assert "fedtrain audit report.json --roster roster.json" in words
    assert "2 7.20 7.20 10 30 2 360 60" in words
    assert "clients' own budget 10" in words


def test_a_simulation_is_no_protected_release_anywhere_on_the_page(plain, parse):
    html = render_html(parse(plain))
    words = Page(html).words
    assert "fedtrain report, a simulation that protects nobody" in words
    assert f"simulation: protects nobody {plain['status']} federated training report" in words
    assert 'class="status completed"' not in html
    head = words[: words.index("What the numbers mean")]
    assert head.count("protects nobody") >= 3
    assert "Simulated privacy, per record" in head
    assert "this report, a simulation: protects nobody" in words
    assert "How strong is the guarantee? none: a simulation protects nobody." in words
    plain["privacy"]["noise"] = "secure"
    html = render_html(parse(plain))
    assert "protects nobody" not in Page(html).words
    assert "Simulated" not in html
    assert f'class="status {plain["status"]}"' in html


def test_nothing_on_the_page_hides_or_turns_what_is_beside_it(plain, parse):
    hidden = "a\u202eb\u200bc\x1bd\x9be"
    plain["name"], plain["warnings"] = hidden * 100, [hidden]
    plain["config"]["report.people"] = plain["config"]["output.note"] = hidden
    plain["privacy"]["trusted"] = [hidden]
    plain["status"], plain["reason"] = "failed", hidden
    html = render_html(parse(plain))
    assert not [letter for letter in html if not (letter.isprintable() or letter in "\n\N{NO-BREAK SPACE}")]
    assert "a\N{REPLACEMENT CHARACTER}b" in html
    assert len(re.search(r"<h1>(.*?)</h1>", html)[1]) == 200


def test_adaptive_clipping_and_secret_cohorts_are_shown(plain, parse):
    plain["privacy"]["mechanism"]["adaptive_clipping"] = {
        "quantile": 0.5,
        "learning_rate": 0.2,
        "count_noise": 2.5,
        "value_noise_multiplier": 1.1125,
    }
    for entry in plain["round_log"]:
        entry.update(cohort=None, completed=None, dropped=None)
    words = Page(render_html(parse(plain))).words
    assert "clipping norm 1, adaptive clipping quantile 0.5 clipping learning rate 0.2 noise on the count 2.5" in words
    assert "1 secret secret secret" in words
    assert "Cohorts are secret" in words


def test_warnings_come_first_and_as_text(plain, parse):
    plain["warnings"] = [HOSTILE, "accuracy 0.7607 after round 30 is no better than the baseline"]
    page = Page(render_html(parse(plain)))
    assert "Warning: accuracy 0.7607 after round 30 is no better than the baseline." in page.words
    assert page.words.index("Warning:") < page.words.index("privacy, per record")
    assert "script" not in page.tags


def test_the_result_stands_beside_its_baseline(plain, parse):
    words = Page(render_html(parse(plain))).words
    assert words.count("baseline") == words.count("baseline not stated") == 1
    plain["evaluation"]["baseline"] = {"accuracy": 0.5617, "loss": 0.6}
    text = render_html(parse(plain))
    assert "one answer for all: 56.17 %" in Page(text).words.replace("\N{NO-BREAK SPACE}", " ")
    assert Page(text).words.count("baseline 56.17 %") == 1  # in the drawing


def test_clients_have_their_owners_names(plain, parse):
    plain["data"]["owners"] = [f"Hospital {HOSTILE if number == 3 else number}" for number in range(10)]
    plain["round_log"][0].update(completed=[0, 1, 2, 4, 5, 6, 7, 8, 9], dropped=[{"client": 3, "reason": "why"}])
    plain["round_log"][1].update(completed=[1, 2, 3, 4, 5, 6, 7, 8, 9], dropped=[{"client": 0, "reason": "late"}])
    page = Page(render_html(parse(plain)))
    assert "client owner records" in page.words
    assert "0 Hospital 0 600" in page.words
    assert "late 1 2 0 (Hospital 0)" in page.words
    assert "script" not in page.tags
    plain["data"]["owners"] = ["one"]
    with pytest.raises(ValueError, match="owners has 1 names for 10 clients"):
        parse(plain)


def test_the_columns_of_the_features_are_named(plain, parse):
    assert "The features are made of these columns" not in Page(render_html(parse(plain))).words
    plain["data"]["features"] = ["age", HOSTILE, *map(str, range(20_000))]
    page = Page(render_html(parse(plain)))
    assert "The features are made of these columns: age, " in page.words
    assert "17 and 19,982 more." in page.words
    assert "script" not in page.tags
    assert parse(plain).model_dump()["data"]["features"][0] == "age"


def test_ten_thousand_named_clients_fit_a_page(build, parse):
    plain = build(1, clients=10_000, cohort=5, classes=("no", "yes"), private=False)
    plain["data"]["owners"] = [f"Hospital {number}" for number in range(10_000)]
    words = Page(render_html(parse(plain))).words
    assert words.count("Hospital ") < 60
    assert "20 of 10,000 clients; report.json has all." in words


@pytest.mark.parametrize(
    ("population", "delta", "words"),
    [
        (400.0, 1e-5, "It is far below one in about 400: so many records of a client are what"),
        (461.53846153846155, 1e-3, "It is below one in about 462: so many records of a client are what"),
    ],
)
def test_delta_is_called_far_below_only_where_it_is(plain, parse, population, delta, words):
    plain["privacy"].update(delta=delta)
    plain["privacy"]["mechanism"].update(population=population)
    page = Page(render_html(parse(plain))).words
    assert words in page
    assert "461.538" not in page
    assert f"For a client with {round(1 / delta):,} records or more, delta is not below one in their number" in page
    assert f"records of a client, by batch size / sampling rate about {round(population)}, not counted" in page
