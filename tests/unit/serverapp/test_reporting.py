import os
import platform
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import time
from functools import partial
from statistics import median

import numpy as np
import pytest
from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.pld import PLDAccountant

from fedtrain.config import to_flat
from fedtrain.data import Columns
from fedtrain.privacy import epsilon_of
from fedtrain.report import Evaluation, Metric, ModelFile, Report, SecureAggregation
from fedtrain.report.evaluation import PerClass, kept
from fedtrain.report.html import render_html
from fedtrain.report.numbers import upper
from fedtrain.report.schema import body_digest
from fedtrain.serverapp.preparation import introduction
from fedtrain.serverapp.reporting import build_report, largest_epsilon, matrices_of
from tests.notary import Notary

# Client 0 trained in all rounds, 2 in one, 3 never.
COHORTS = {1: (0, 1), 2: (2, 0), 3: (0, 1)}
SUM = SecureAggregation(threshold=2, neighbours=1, bits=16, lost_masking=0, lost_unmasking=0)
FILE = ModelFile(file="model-final.safetensors", sha256="ab" * 32)


def build(preparation, state, trail=None, *, status="completed", reason=None, final=FILE, best=None, matrices=None):
    files = {"final": final, "best": best, "matrices": matrices}
    return build_report(preparation, state, trail, run="this", status=status, reason=reason, **files)


@pytest.fixture
def whole(notary):
    """Return the audit trail of a run of three rounds."""
    for number, cohort in COHORTS.items():
        notary.round(number, cohort)
    return notary.trail


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


def test_every_epsilon_can_be_recomputed_from_the_events(private, whole, make_state):
    report = build(private, make_state(COHORTS), whole)
    spent = {entry.client: entry.epsilon for entry in report.privacy.clients}
    assert sorted(spent) == [0, 1, 2, 3]
    for client, epsilon in spent.items():
        assert recomputed(report, client) == pytest.approx(epsilon, rel=1e-6)
    assert spent[0] > spent[1] > spent[2] > spent[3] == 0
    assert report.privacy.epsilon == spent[0] <= report.privacy.budget


def test_what_was_charged_is_listed(private, whole, make_state):
    report = build(private, make_state(COHORTS), whole)
    privacy, spec = report.privacy, private.plan.spec
    assert [(event.client, event.round) for event in privacy.events] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 3), (2, 2)]
    assert {event.run for event in privacy.events} == {"this"}
    assert {event.steps for event in privacy.events} == {spec.steps_per_round} == {2}
    assert {event.noise_multiplier for event in privacy.events} == {private.plan.noise_multiplier}
    assert [client.rounds for client in privacy.clients] == [(1, 2, 3), (1, 3), (2,), ()]
    assert [client.entries for client in privacy.clients] == [6, 4, 2, 0]
    assert (privacy.mechanism.clip_norm, privacy.mechanism.divisor, privacy.mechanism.population) == (1.0, 20, 100)
    assert privacy.mechanism.plan_digest == private.plan.digest
    assert (privacy.delta, privacy.budget) == (1e-3, 2.0)
    assert f"exp({upper(privacy.epsilon)})" in privacy.statement


def test_other_runs_on_the_same_records_are_in_epsilon_and_not_in_that_of_the_run(private, notary, make_state):
    notary.train(0, 1, run="earlier")
    notary.round(1, (0, 1))
    first, second, *_ = build(
        private, make_state({1: (0, 1)}), notary.trail, status="failed", reason="x"
    ).privacy.clients
    assert (first.steps, first.rounds) == (4, (1,))
    assert first.epsilon > first.run_epsilon == second.run_epsilon == second.epsilon > 0


def test_three_accountants_agree_on_the_client_that_spent_most(private, whole, make_state):
    privacy = build(private, make_state(COHORTS), whole).privacy
    by_role = {accountant.role: accountant for accountant in privacy.accountants}
    assert by_role["claim"].epsilon == privacy.epsilon
    assert by_role["second opinion"].epsilon == pytest.approx(privacy.epsilon, rel=0.05)
    assert by_role["ceiling"].epsilon >= privacy.epsilon
    assert {accountant.note for accountant in privacy.accountants} == {None}


def test_a_round_that_failed_is_charged_too(private, notary, make_state):
    notary.round(1, (0, 1))
    notary.ask(2, (0, 2))
    failed = build(private, make_state({1: (0, 1)}), notary.trail, status="failed", reason="too few", final=None)
    assert (failed.rounds, len(failed.round_log)) == (1, 1)
    assert failed.privacy.clients[0].rounds == (1, 2)
    assert failed.privacy.clients[0].unanswered == (2,)
    assert failed.privacy.epsilon == pytest.approx(recomputed(failed, 0), rel=1e-6)
    assert failed.privacy.curve[-1].round == 2


def test_a_client_that_states_that_it_did_not_train_is_not_charged(private, notary, make_state):
    notary.round(1, (0, 1))
    notary.ask(2, (0, 2))
    notary.state(0, 2, refusal="beyond the budget")
    privacy = build(private, make_state({1: (0, 1)}), notary.trail, status="failed", reason="x").privacy
    assert [client.unanswered for client in privacy.clients] == [(), (), (2,), ()]
    assert [client.rounds for client in privacy.clients] == [(1,), (1,), (2,), ()]


def test_an_update_that_never_arrived_is_charged_by_what_was_asked(private, notary, make_state):
    notary.ask(1, (0, 1))
    notary.train(0, 1, show=False)
    before = build(private, make_state(), notary.trail, status="failed", reason="x").privacy
    assert [client.unanswered for client in before.clients] == [(1,), (1,), (), ()]
    # Later it shows the entry, and is charged once all the same.
    notary.state(0, 1)
    after = build(private, make_state(), notary.trail, status="failed", reason="x").privacy
    assert [client.unanswered for client in after.clients] == [(), (1,), (), ()]
    assert [client.epsilon for client in after.clients] == [client.epsilon for client in before.clients]


def test_a_repeated_round_counts_once_with_seeded_noise_and_twice_with_secure_noise(private, tmp_path, make_state):
    epsilons = {}
    for noise in ("seeded", "secure"):
        notary = Notary(private, tmp_path / noise, noise=noise)
        notary.ask(1, (0,))
        notary.ask(1, (0,))
        privacy = build(private, make_state(), notary.trail, status="failed", reason="x").privacy
        assert privacy.noise == noise
        epsilons[noise] = privacy.epsilon
    assert epsilons["seeded"] == epsilon_of([private.plan.event(2)], 1e-3)
    assert epsilons["secure"] == epsilon_of([private.plan.event(4)], 1e-3)


def test_the_curve_rises_to_the_claim_and_is_never_below_the_truth(private, whole, make_state):
    report = build(private, make_state(COHORTS), whole)
    plan = private.plan
    exact = {count: epsilon_of([plan.event(2 * count)], 1e-3) for count in range(4)}
    after = {0: [0, 0, 0, 0], 1: [1, 1, 0, 0], 2: [2, 1, 1, 0], 3: [3, 2, 1, 0]}
    assert [point.round for point in report.privacy.curve] == [0, 1, 2, 3]
    for point in report.privacy.curve:
        assert point.max >= max(exact[count] for count in after[point.round])
        assert point.median >= median(exact[count] for count in after[point.round])
        assert all(value >= exact[count] for value, count in zip(point.clients, after[point.round], strict=True))
    values = [point.max for point in report.privacy.curve]
    assert values == sorted(values)
    assert values[-1] == report.privacy.epsilon


def test_the_quick_bound_is_of_the_client_charged_most_and_never_below(private, whole):
    exact = [epsilon_of([private.plan.event(2 * count)], 1e-3) for count in range(4)]
    quick = [largest_epsilon(whole, up_to=number) for number in range(4)]
    assert quick[0] == 0
    for bound, value in zip(quick, exact, strict=True):
        assert value <= bound <= value * 1.01


def test_the_quick_bound_counts_what_was_asked_and_what_other_runs_spent(private, notary):
    notary.train(0, 1, run="earlier")
    notary.ask(1, (0,))
    assert largest_epsilon(notary.trail, up_to=0) >= epsilon_of([private.plan.event(2)], 1e-3)
    assert largest_epsilon(notary.trail, up_to=1) >= epsilon_of([private.plan.event(4)], 1e-3)
    notary.trail.refused[0] = "no budget"
    assert largest_epsilon(notary.trail, up_to=1) == largest_epsilon(notary.trail, up_to=0)


def test_a_run_without_rounds(private, notary, make_state):
    report = build(private, make_state(), notary.trail, status="interrupted", final=None)
    assert report.privacy.epsilon == 0
    assert report.privacy.events == ()
    assert [point.max for point in report.privacy.curve] == [0.0]
    assert [client.epsilon for client in report.privacy.clients] == [0.0] * 4
    assert report.evaluation.final is report.evaluation.best is None
    assert (report.rounds, report.planned_rounds) == (0, 3)


@pytest.mark.parametrize(("sealed", "secagg"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_round_that_was_lost_is_claimed_as_it_was_asked(sealed, secagg, private, notary, make_state):
    notary.round(1, (0, 1), sealed=True, secagg=SUM)
    notary.ask(2, (0, 1), sealed=sealed, secagg=secagg)
    privacy = build(private, make_state({1: (0, 1)}), notary.trail, status="interrupted", reason="x").privacy
    server, relay = (next(entry for entry in privacy.adversaries if who in entry.who) for who in ("server,", "relays"))
    assert server.sees.startswith("the sum of the updates of each round" if secagg else "every update")
    assert relay.sees.startswith("who sends how much" if sealed else "what the server sees")


def test_without_privacy_nothing_is_claimed(plain, make_state):
    report = build(plain, make_state(COHORTS))
    privacy = report.privacy
    assert (privacy.mode, privacy.epsilon, privacy.delta, privacy.mechanism) == ("none", None, None, None)
    assert privacy.events == privacy.clients == privacy.curve == ()
    assert "no privacy guarantee" in privacy.statement
    assert report.proof is None


def test_secret_cohorts_are_nowhere_in_the_report(private, tmp_path, make_state):
    notary = Notary(private, tmp_path / "secret", withheld=True)
    notary.ask(1, (0, 1))
    report = build(private, make_state({1: (0, 1)}, seconds=12.5), notary.trail, status="failed", reason="x")
    (entry,) = report.round_log
    assert (entry.cohort, entry.completed, entry.dropped, entry.seconds) == (None, None, None, 0.0)
    # How long it took tells how many trained.
    assert (report.seconds, report.created.time()) == (0.0, time(0, 0))
    assert '<dd class="value">secret</dd>' in render_html(report)
    assert notary.trail.log.records[1].cohort == ()


def test_seeded_noise_is_said_to_bound_nobody(private, notary, tmp_path, make_state):
    seeded = build(private, make_state(), notary.trail, status="failed", reason="x").privacy
    assert not any(adversary.bounded for adversary in seeded.adversaries)
    secure = Notary(private, tmp_path / "secure", noise="secure").trail
    secured = build(private, make_state(), secure, status="failed", reason="x").privacy
    assert all(adversary.bounded for adversary in secured.adversaries)
    assert "simulation" in seeded.statement
    assert "simulation" not in secured.statement


def test_the_columns_of_a_table_are_on_the_screen_and_in_the_report(plain, make_state):
    assert "features" not in build(plain, make_state(COHORTS)).model_dump()["data"]
    assert "features:" not in introduction(plain)
    table = Columns(shape=(3,), names=("age", "ward\x1b[2J"))
    store = replace(plain.store, info=replace(plain.store.info, features=table))
    tabular = replace(plain, store=store)
    assert build(tabular, make_state(COHORTS)).data.features == ("age", "ward\x1b[2J")
    assert "\nfeatures: age, ward\N{REPLACEMENT CHARACTER}[2J\n" in introduction(tabular)


@pytest.mark.parametrize("kind", ["plain", "private"])
def test_a_report_is_the_same_after_it_was_written(kind, request, make_state):
    preparation = request.getfixturevalue(kind)
    trail = request.getfixturevalue("whole") if kind == "private" else None
    report = build(preparation, make_state(COHORTS, accuracies=(0.1, 0.2, 0.6, 0.4)), trail, best=FILE)
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_the_end_of_the_record_signs_the_report(private, whole, make_state):
    report = build(private, make_state(COHORTS), whole)
    closing = whole.log.records[-1]
    assert (closing.kind, closing.status, closing.rounds) == ("closed", "completed", 3)
    assert closing.report == body_digest(Report.model_validate_json(report.model_dump_json()))
    assert len(report.proof.record) == len(whole.log.records) == 1 + 2 * 3 + 1
    assert [len(ledger.entries) for ledger in report.proof.ledgers] == [6, 4, 2, 0]


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
    assert set(report.software_digests) >= {"fedtrain", "torch", "opacus"}
    assert report.created.utcoffset().total_seconds() == 0


def test_matrices_of_many_classes_are_in_a_file_of_their_own(plain, make_state):
    def evaluation(number, classes):
        matrix = np.full((classes, classes), number, np.int64)
        each = PerClass.model_validate(dict.fromkeys(("precision", "recall", "f1"), (0.5,) * classes))
        confusion = tuple(map(tuple, matrix.tolist()))
        measured = {"accuracy": (0.1, 0.9, 0.5)[number], "confusion": confusion, "per_class": each}
        return Evaluation(round=number, loss=1.0, **measured)

    for classes, large in ((100, False), (101, True)):
        history = kept([evaluation(number, classes) for number in range(3)], plain.metrics)
        state = replace(make_state({1: (0,), 2: (1,)}), evaluations=history)
        found = matrices_of(plain, state)
        stopped = {"status": "interrupted", "reason": "stopped"}
        report = build(plain, state, **stopped, matrices=FILE if large else None)
        assert Report.model_validate_json(report.model_dump_json()) == report
        whole = [entry.confusion is not None for entry in report.evaluation.history]
        if large:
            assert {name: matrix[0, 0] for name, matrix in found.items()} == {"confusion/final": 2, "confusion/best": 1}
            assert whole == [False] * 3
            assert [entry.per_class is not None for entry in report.evaluation.history] == [False, True, True]
            assert report.matrices == FILE
        else:
            assert found == {}
            assert whole == [False, True, True]
            assert all(entry.per_class for entry in report.evaluation.history)
            assert "matrices" not in report.model_dump()


def test_a_large_histogram_is_in_a_file_of_its_own(plain, make_state):
    counts = np.full((20_000, 10), 2, np.int64)
    many = replace(plain, histogram=counts)
    report = build(many, make_state(), status="interrupted", reason="stopped")
    assert report.data.histogram is None
    np.testing.assert_array_equal(matrices_of(many, make_state())["histogram"], counts)
    assert len(report.model_dump_json()) < 20_000


def test_what_is_measured_of_each_of_many_is_kept_of_few_evaluations():
    own = {"levels": [1.0] * 101, "few": [1.0] * 100, "nested": {"a": [1] * 60, "b": [2] * 60}, "one": 3}
    evaluations = [Evaluation.model_validate({"round": number, **own}) for number in range(3)]
    metrics = (Metric(name="one", direction="lower", format="number"),)
    first, middle, last = kept(evaluations, metrics)
    assert first.own == last.own == own
    assert middle.own == {"levels": None, "few": [1.0] * 100, "nested": None, "one": 3}


def test_a_library_of_pictures_that_does_not_load_is_refused_before_anything_is_trained():
    program = (
        "from fedtrain.errors import ConfigError; from fedtrain.serverapp.reporting import require_pictures\n"
        "try: require_pictures()\n"
        "except ConfigError as error: print(error)"
    )
    for backend, words in (("nonsense", "matplotlib does not load, ValueError"), ("TkAgg", "")):
        settings = {**os.environ, "MPLBACKEND": backend}
        done = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=True)
        assert ("MPLBACKEND" in done.stdout) == bool(words)
        assert words in done.stdout


def test_without_settings_of_the_users_the_library_of_pictures_waits_for_the_end(tmp_path):
    program = (
        "import sys; from fedtrain.serverapp.reporting import require_pictures\n"
        "require_pictures(); print('matplotlib' in sys.modules)"
    )
    unset = {name: value for name, value in os.environ.items() if name not in {"MPLBACKEND", "MATPLOTLIBRC"}}
    run = partial(
        subprocess.run,
        [sys.executable, "-c", program],
        env=unset,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run().stdout == "False\n"
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 2\n")
    assert run().stdout == "True\n"
