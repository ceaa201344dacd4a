import platform
from collections import Counter
from statistics import median

import pytest
from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.pld import PLDAccountant

from fedtrain.config import to_flat
from fedtrain.privacy import COARSE, epsilon_of
from fedtrain.report import ModelFile, Report
from fedtrain.report.numbers import upper
from server.reporting import build_report, largest_epsilon

# Client 0 trained in all rounds, 2 in one, 3 never.
CHARGED = {1: (0, 1), 2: (2, 0), 3: (0, 1)}
FILE = ModelFile(file="model-final.safetensors", sha256="ab" * 32)


def build(preparation, state, *, status="completed", reason=None, final=FILE, best=None):
    return build_report(preparation, state, status=status, reason=reason, final=final, best=best)


def recomputed(report, client):
    """Compose the events of one client as an auditor would, from the report alone."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-4)
    steps = Counter()
    for event in report.privacy.events:
        if event.client == client:
            gaussian = dp_event.GaussianDpEvent(event.noise_multiplier)
            steps[dp_event.PoissonSampledDpEvent(event.sampling_rate, gaussian)] += event.steps
    for step, count in steps.items():
        accountant.compose(dp_event.SelfComposedDpEvent(step, count))
    return accountant.get_epsilon(report.privacy.delta)


def test_every_epsilon_can_be_recomputed_from_the_events(private, make_state):
    report = build(private, make_state(CHARGED))
    spent = {entry.client: entry.epsilon for entry in report.privacy.clients}
    assert sorted(spent) == [0, 1, 2, 3]
    for client, epsilon in spent.items():
        assert recomputed(report, client) == epsilon
    assert spent[0] > spent[1] > spent[2] > spent[3] == 0
    assert report.privacy.epsilon == spent[0] <= report.privacy.budget


def test_what_was_charged_is_listed(private, make_state):
    report = build(private, make_state(CHARGED))
    privacy, spec = report.privacy, private.plan.spec
    assert [(event.round, event.client) for event in privacy.events] == [(1, 0), (1, 1), (2, 0), (2, 2), (3, 0), (3, 1)]
    assert {event.steps for event in privacy.events} == {spec.steps_per_round} == {2}
    assert {event.noise_multiplier for event in privacy.events} == {private.plan.noise_multiplier}
    assert [client.rounds for client in privacy.clients] == [(1, 2, 3), (1, 3), (2,), ()]
    assert [client.steps for client in privacy.clients] == [6, 4, 2, 0]
    assert (privacy.mechanism.clip_norm, privacy.mechanism.expected_batch_size) == (1.0, 20)
    assert (privacy.delta, privacy.budget) == (1e-3, 2.0)
    assert f"exp({upper(privacy.epsilon)})" in privacy.statement


def test_a_round_that_failed_is_charged_too(private, make_state):
    state = make_state({1: (0, 1)})
    failed = build_report(
        private,
        type(state)(**(vars(state) | {"charged": {1: (0, 1), 2: (0, 2)}})),
        status="failed",
        reason="too few",
        final=None,
        best=None,
    )
    assert (failed.rounds, len(failed.round_log)) == (1, 1)
    assert failed.privacy.clients[0].rounds == (1, 2)
    assert failed.privacy.epsilon == recomputed(failed, 0)
    assert failed.privacy.curve[-1].round == 2


def test_the_curve_rises_to_the_claim_and_is_never_below_the_truth(private, make_state):
    report = build(private, make_state(CHARGED))
    plan = private.plan
    exact = {count: epsilon_of([plan.event(2 * count)], 1e-3) for count in range(4)}
    after = {1: [1, 1, 0, 0], 2: [2, 1, 1, 0], 3: [3, 2, 1, 0]}
    assert [point.round for point in report.privacy.curve] == [1, 2, 3]
    for point in report.privacy.curve:
        assert point.max >= max(exact[count] for count in after[point.round])
        assert point.median >= median(exact[count] for count in after[point.round])
    values = [point.max for point in report.privacy.curve]
    assert values == sorted(values)
    assert values[-1] == report.privacy.epsilon


def test_the_quick_bound_is_of_the_client_charged_most_and_never_below(private, make_state):
    state = make_state(CHARGED)
    exact = [epsilon_of([private.plan.event(2 * count)], 1e-3) for count in range(4)]
    quick = [largest_epsilon(private.plan, state, up_to=number) for number in range(4)]
    assert quick[0] == 0
    for bound, value in zip(quick, exact, strict=True):
        assert value <= bound <= value * 1.01
    assert quick[3] == epsilon_of([private.plan.event(6)], 1e-3, discretization=COARSE)


def test_a_run_without_rounds(private, make_state):
    report = build(private, make_state(), status="interrupted", final=None)
    assert report.privacy.epsilon == 0
    assert report.privacy.events == report.privacy.curve == ()
    assert [client.epsilon for client in report.privacy.clients] == [0.0] * 4
    assert report.evaluation.final is report.evaluation.best is None
    assert (report.rounds, report.planned_rounds) == (0, 3)


def test_without_privacy_nothing_is_claimed(plain, make_state):
    report = build(plain, make_state(CHARGED))
    privacy = report.privacy
    assert (privacy.mode, privacy.epsilon, privacy.delta, privacy.mechanism) == ("none", None, None, None)
    assert privacy.events == privacy.clients == privacy.curve == ()
    assert "no privacy guarantee" in privacy.statement


@pytest.mark.parametrize("kind", ["plain", "private"])
def test_a_report_is_the_same_after_it_was_written(kind, request, make_state):
    preparation = request.getfixturevalue(kind)
    report = build(preparation, make_state(CHARGED, accuracies=(0.1, 0.2, 0.6, 0.4)), best=FILE)
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_the_facts_of_the_run(plain, make_state):
    state = make_state({1: (0, 1)}, accuracies=(0.1, 0.5), seconds=12.5)
    report = build(plain, state, status="failed", reason="the disk is full")
    assert (report.status, report.reason, report.rounds, report.seconds) == ("failed", "the disk is full", 1, 12.5)
    assert report.config == to_flat(plain.experiment)
    assert report.evaluation.best.model_dump() == {"round": 1, "accuracy": 0.5}
    assert report.evaluation.final.accuracy == 0.5
    assert report.round_log == state.round_log
    assert (report.data.train_records, report.data.test_records, report.data.clients) == (400, 359, 4)
    assert sum(map(sum, report.data.histogram)) == 400
    assert report.model.parameters == sum(value.numel() for value in plain.model.state_dict().values())
    assert report.software["python"] == platform.python_version()
    assert report.created.utcoffset().total_seconds() == 0
