"""Rounds that a client spoils and that are asked again in the same run: what is charged, and when they are not."""

from collections import Counter
from itertools import count

import pytest
from flwr.app import Error

from fedtrain.errors import AggregationError, BudgetError, TooFewResultsError
from fedtrain.serverapp.events import Notice, RoundStarted
from tests.fakes import NODES, digits_experiment, federation
from tests.runs import runner

PLAIN = {"kind": digits_experiment}
SECURE = {"privacy__noise": "secure", "privacy__max_participations": 4}
MASKED = {"transport__secagg__enabled": True}
ALL = {"federation__cohort": 4, "federation__min_results": 4}


@pytest.fixture
def run(cache, tmp_path):
    """Run an experiment whose rounds need all of their cohort, and return its report after an audit, and its model."""
    return runner(cache, tmp_path, **ALL)


def spoiled(*, times, kind="train", number=2):
    """Give a grid in which one client is late so many times, in a round."""

    def grid(experiment):
        inner, attempts = federation(experiment), count(1)
        whole = inner._answer

        def answer(message):
            metadata, content = message.metadata, message.content
            asked = metadata.message_type == kind and NODES[metadata.dst_node_id] == 2
            if kind == "query":
                asked = asked and "secagg" in content
            elif asked:
                asked = content["config"]["server-round"] == number
            return Error(1, "late") if asked and next(attempts) <= times else whole(message)

        inner._answer = answer
        return inner

    return grid


def asked(report):
    return Counter(event.client for event in report.privacy.events)


@pytest.mark.parametrize("settings", [PLAIN, {}, {**PLAIN, **MASKED}], ids=["plain", "seeded", "summed"])
def test_a_round_that_is_asked_again_gives_the_same_model(run, settings):
    _, model = run("whole", **settings)
    seen = []
    report, same = run("spoiled", grid=spoiled(times=2), federation__retries=2, on_event=seen.append, **settings)
    assert report.rounds == 3
    assert all((model[name] == same[name]).all() for name in model)
    assert [event.round for event in seen if isinstance(event, RoundStarted)] == [1, 2, 2, 2, 3]
    told = [event.text for event in seen if isinstance(event, Notice) and "asked again" in event.text]
    assert told == ["round 2 is asked again (1 of 2)", "round 2 is asked again (2 of 2)"]
    assert sum("late" in event.text for event in seen if isinstance(event, Notice) and event.private) == 2
    if report.privacy.events:  # seeded: the same update, which is not charged again
        assert asked(report) == dict.fromkeys(range(4), 3)


@pytest.mark.parametrize("settings", [PLAIN, {}], ids=["plain", "seeded"])
def test_the_last_round_is_asked_again_too_although_no_client_may_take_part_in_more(run, settings):
    _, model = run("whole", federation__rounds=1, **settings)
    report, same = run(
        "spoiled", grid=spoiled(times=1, number=1), federation__rounds=1, federation__retries=1, **settings
    )
    assert (report.status, report.rounds) == ("completed", 1)
    assert all((model[name] == same[name]).all() for name in model)


def test_with_secure_noise_each_attempt_is_charged_at_each_client_that_reserved(run):
    whole, _ = run("whole", **SECURE)
    report, _ = run("spoiled", grid=spoiled(times=1), federation__retries=1, **SECURE)
    assert asked(whole) == dict.fromkeys(range(4), 3)
    # The late one never reserved the first attempt; at the end it says so, signed.
    assert asked(report) == {0: 4, 1: 4, 2: 3, 3: 4}
    assert report.privacy.epsilon > whole.privacy.epsilon
    assert report.privacy.epsilon <= 2.0


def test_what_is_left_for_a_client_to_take_part_in_ends_the_attempts(run):
    with pytest.raises(BudgetError, match=r"only 0 clients are left for a cohort of 4"):
        run(grid=spoiled(times=9), federation__retries=9, **SECURE)


def test_a_round_is_asked_as_often_as_was_said_and_no_more(run):
    with pytest.raises(TooFewResultsError, match="round 2 has 3 usable results of 4"):
        run(grid=spoiled(times=2), federation__retries=1, **PLAIN)
    with pytest.raises(TooFewResultsError, match="round 2 has 3 usable results of 4"):
        run("never", grid=spoiled(times=1), **PLAIN)


@pytest.mark.parametrize("settings", [{**PLAIN, **MASKED}, {**SECURE, **MASKED}], ids=["plain", "secure"])
def test_a_sum_that_clients_were_asked_to_unmask_is_not_asked_for_again(run, settings):
    """The two sums would differ in one client."""
    seen = []
    late = {"federation__min_results": 2, "transport__secagg__threshold": 4}
    why = r"(?s)round \d was aborted: .*it is not asked again in this run: .* federation\.min_results = 2 is not "
    with pytest.raises(AggregationError, match=why):
        run(grid=spoiled(times=1, kind="query"), federation__retries=2, on_event=seen.append, **(settings | late))
    assert not any("asked again" in event.text for event in seen if isinstance(event, Notice))


def test_a_sum_of_too_few_is_not_unmasked(run, tmp_path):
    queries = []

    def grid(experiment):
        inner = spoiled(times=1)(experiment)
        whole = inner._answer

        def answer(message):
            content = message.content
            if message.metadata.message_type == "query" and "secagg" in content:
                queries.append(NODES[message.metadata.dst_node_id])
            return whole(message)

        inner._answer = answer
        return inner

    with pytest.raises(TooFewResultsError, match="round 2 has 3 usable results of 4"):
        run(grid=grid, **PLAIN, **MASKED)
    assert Counter(queries) == dict.fromkeys(range(4), 1)  # of round 1 alone
