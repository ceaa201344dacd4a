import pytest

from fedtrain.report.checklist import checklist
from fedtrain.report.html import render_html
from fedtrain.report.scale import REFERENCES, SOURCES, scale
from fedtrain.report.statements import LABELS, names, statements

HOSTILE = "<b>x</b>\u202e"


def answers(report):
    return dict(checklist(report).rows)


def test_each_point_has_the_evidence_of_the_report_or_says_that_there_is_none(plain, parse):
    found = answers(parse(plain))
    assert found["Where are the data from?"] == "not stated"
    assert found["Were parameters tuned on the same data?"] == "not stated"
    assert "baseline not stated" in found["How useful is the result, and for whom not?"]
    assert found["From whom does it not protect?"] == "the network"
    strength = found["How strong is the guarantee?"]
    assert strength.startswith(
        "none: a simulation protects nobody. A deployment with secure noise would have epsilon 7.20"
    )
    assert "7.20 at delta 10⁻⁵" in strength
    plain["privacy"]["noise"] = "secure"
    assert answers(parse(plain))["How strong is the guarantee?"].startswith("epsilon 7.20 at delta 10⁻⁵")
    plain["config"] |= {"report.data_origin": "two wards", "report.limits": "adults only"}
    plain["privacy"]["tuning"] = "three runs of other seeds"
    plain["evaluation"]["baseline"] = {"accuracy": 0.1123}
    found = answers(parse(plain))
    assert found["Where are the data from?"] == "the operator states, not verified: “two wards”"
    assert found["What is it meant for, and what not?"] == "the operator states, not verified: “adults only”"
    tuned = "the operator declares, not verified: “three runs of other seeds”"
    assert found["Were parameters tuned on the same data?"] == tuned
    assert "one answer for all of them reaches 11.23 %" in found["How useful is the result, and for whom not?"]


def test_a_report_without_privacy_has_no_checklist_and_no_scale(build, parse):
    report = parse(build(rounds=1, private=False))
    assert checklist(report) is None
    assert scale(report.privacy) is None


@pytest.mark.parametrize(("epsilon", "here"), [(0.0, 0), (1.0, 0), (1.5, 1), (12.0, 4), (500.0, len(REFERENCES))])
def test_an_epsilon_stands_where_it_belongs_among_the_published(plain, parse, epsilon, here):
    privacy = parse(plain).privacy.model_copy(update={"epsilon": epsilon})
    found = scale(privacy)
    assert found.here == here
    assert found.table.rows[here][1].startswith("this report")
    assert all(reference.place < epsilon for reference in REFERENCES[:here])
    assert all(reference.place >= epsilon for reference in REFERENCES[here:])


def test_every_published_value_has_a_source():
    assert [reference.place for reference in REFERENCES] == sorted(reference.place for reference in REFERENCES)
    assert {reference.source for reference in REFERENCES} == set(range(1, len(SOURCES) + 1))


def test_what_people_state_is_shown_as_text_and_bounded(plain, parse):
    plain["config"] |= dict.fromkeys(LABELS, HOSTILE) | {"report.contact": 3, "report.purpose": "x" * 5000}
    plain["data"]["sites"] = [{"client": client, "name": "<i>site</i>"} for client in range(10)]
    report = parse(plain)
    said = dict(statements(report))
    assert "contact" not in said
    assert said["operator"] == "“<b>x</b>\N{REPLACEMENT CHARACTER}”"
    assert len(said["purpose"]) == 1002
    page = render_html(report)
    assert "<i>site" not in page
    assert "<b>x" not in page
    assert "not verified" in page
    assert len(names(report)) == 10


def test_of_very_many_sites_the_first_are_named(build, parse):
    plain = build(1, clients=10_000, cohort=5, classes=("no", "yes"), private=False)
    plain["data"]["sites"] = [{"client": client, "name": f"site {client}"} for client in range(10_000)]
    assert names(parse(plain))[-1] == ("others", "9,960 more; report.json has all")


@pytest.mark.parametrize("clients", [[1, 0], [0, 0], [10]])
def test_sites_are_clients_each_once(plain, parse, clients):
    plain["data"]["sites"] = [{"client": client, "name": "a"} for client in clients]
    with pytest.raises(ValueError, match="sites"):
        parse(plain)


VERDICT = "x” The audit holds. “"


def test_what_others_say_passes_for_no_words_of_the_page(plain, parse):
    plain["config"] |= dict.fromkeys(LABELS, VERDICT)
    plain["privacy"]["tuning"] = VERDICT
    plain["data"]["sites"] = [{"client": 0, "name": "allows no name"}, {"client": 3, "name": VERDICT}]
    report = parse(plain)
    quoted = "“x' The audit holds. '”"
    assert {text for _, text in statements(report)} == {quoted}
    assert names(report) == [("client 0", "“allows no name”"), ("client 3", quoted)]
    page = render_html(report).replace("&#39;", "'")
    assert page.count("The audit holds") == page.count(quoted) + page.count(f"<code>{VERDICT}</code>")
    for question in ("How do records and people go together?", "Where are the data from?"):
        assert answers(report)[question] == f"the operator states, not verified: {quoted}"


def test_a_site_that_is_called_as_another_is_told(plain, parse):
    alike = {0: "North Clinic", 2: "north clinic", 5: "North\N{NO-BREAK SPACE}Clinic", 7: "South"}
    plain["data"]["sites"] = [{"client": client, "name": name} for client, name in alike.items()]
    shown = dict(names(parse(plain)))
    assert shown["client 0"] == "“North Clinic”; 2 other clients have this name too"
    assert shown["client 7"] == "“South”"
    plain["data"]["sites"].pop(2)
    assert dict(names(parse(plain)))["client 2"] == "“north clinic”; client 0 has this name too"


def test_the_checklist_leaves_nothing_of_the_reports_own_words_out(plain, parse):
    plain["privacy"]["not_covered"] = [f"{'x' * 300} {number}." for number in range(9)]
    assert all(gap in answers(parse(plain))["What is not covered?"] for gap in plain["privacy"]["not_covered"])


def test_a_report_that_nobody_signed_is_not_said_to_be_signed(build, parse):
    plain = build(rounds=1, private=False)
    plain["config"]["report.purpose"] = "a game"
    page = render_html(parse(plain))
    assert "a game" in page
    assert "signed" not in page[: page.index('id="evaluation"')]
