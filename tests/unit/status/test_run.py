from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.status import Answered, Asked, Begun, Done, Ended, Note, RunStatus, as_json
from fedtrain.status.lines import Loss
from fedtrain.status.run import KEPT
from fedtrain.status.words import described, plain

NAMES = {0: "hospital-a", 1: "hospital-b", 2: "hospital-c"}


def begun(**values):
    fixed = {"time": 100.0, "name": "demo", "mode": "record", "rounds": 4, "done": 0, "clients": 3, "deadline": 60.0}
    private = {"epsilon": 2.0, "delta": 1e-3, "names": NAMES, "budgets": dict.fromkeys(NAMES, 8.0)}
    return Begun(**(fixed | private | {"metric": "accuracy", "baseline": 0.1} | values))


def run(*lines, **values):
    first = RunStatus.begun_with(begun(**values), before=None).seen(alive=True, written=100.0)
    return reduce(RunStatus.after, lines, first)


def asked(number, *, at, cohort=(0, 1, 2)):
    return Asked(time=at, round=number, clients=3, cohort=cohort)


def done(number, *, seconds=10.0, **values):
    return Done(time=110.0, round=number, clients=3, completed=3, seconds=seconds, **values)


def answer(number, client, answered):
    return Answered(time=0.0, round=number, answered=answered, client=client)


def test_a_client_is_late_when_the_round_takes_longer_than_rounds_do():
    first = run(asked(1, at=100.0), answer(1, 0, 1))
    assert first.waiting == (1, 2)
    assert first.late(130.0) == ()  # half of the deadline, where no round was before
    assert first.late(130.1) == (1, 2)
    second = run(done(1, seconds=4.0), asked(2, at=200.0), answer(2, 0, 1), answer(2, 2, 2))
    assert (second.late(206.0), second.late(206.1)) == ((), (1,))
    assert run(done(1), asked(2, at=200.0), done(2)).late(1e9) == ()


def test_the_time_left_is_that_of_the_rounds_before():
    assert run().left(0.0) is None
    status = run(done(1, seconds=10.0), done(2, seconds=20.0))
    assert status.left(0.0) == 30.0
    status = status.after(asked(3, at=200.0))
    assert (status.left(205.0), status.left(300.0), status.left(100.0)) == (25.0, 15.0, 30.0)
    assert status.after(Ended(time=0.0, status="completed", round=4)).left(0.0) is None


def test_a_run_that_goes_on_forgets_rounds_that_are_repeated_and_nothing_else():
    loss = Loss(client=2, reason="no answer")
    before = run(done(1, value=0.3), done(2, value=0.4, losses=(loss,), spent={0: 1.0}), Note(time=0.0, text="noted"))
    status = before.after(begun(done=1))
    assert ([entry.round for entry in status.history], status.value) == ([1], 0.3)
    assert (status.spent, status.notices, [problem.client for problem in status.problems]) == (
        {0: 1.0},
        ("noted",),
        [2],
    )


def test_a_run_without_its_server_is_gone_unless_it_said_how_it_ended():
    assert run().seen(alive=False, written=1.0).state == "gone"
    ended = run(Ended(time=0.0, status="interrupted", reason="stopped by the user", round=2))
    assert ended.seen(alive=False, written=1.0).state == "interrupted"


def test_a_page_of_a_run_names_sites_and_what_they_spent():
    loss = Loss(client=1, reason="a \x1b[31mred error")
    status = run(
        done(1, value=0.51239, epsilon=0.70001, spent={0: 0.7, 1: 0.7, 2: 0.70001}, losses=(loss,)),
        asked(2, at=200.0),
        answer(2, 0, 1),
        answer(2, 2, 2),
    )
    lines = plain(described(status, now=230.0)).splitlines()
    assert lines[0] == "demo: running"
    assert "round      2 of 4  #######......................." in lines[1]
    assert "for 30.0 s  time left 20.0 s" in lines[1]
    assert "clients    2 of 3 have answered" in lines
    assert "late       hospital-b" in lines
    assert "accuracy   0.5123 (baseline 0.1000)" in lines  # never better than it is
    assert "epsilon    0.71 of 2 at delta 0.001" in lines
    assert "  hospital-b  late      epsilon 0.70 of its own 8" in lines
    assert "  hospital-c  answered  epsilon 0.71 of its own 8" in lines
    assert lines[-1].endswith("round 1: hospital-b: a \N{REPLACEMENT CHARACTER}[31mred error")
    found = as_json(status, now=230.0)
    assert (found["late"], found["waiting"], found["left"]) == (["hospital-b"], ["hospital-b"], 20.0)
    assert [site["late"] for site in found["sites"]] == [False, True, False]


def test_what_was_spent_before_a_run_and_in_a_round_that_was_lost_is_shown():
    new = run(asked(1, at=100.0), spent={0: 1.2001, 1: 0.0, 2: 0.7}, reached=1.2001)
    lines = plain(described(new, now=101.0)).splitlines()
    assert "epsilon    1.21 of 2 at delta 0.001" in lines
    assert "  hospital-a  asked     epsilon 1.21 of its own 8" in lines
    assert "  hospital-b  asked     epsilon 0 of its own 8" in lines
    lost = new.after(Ended(time=0.0, status="interrupted", round=0, epsilon=1.5, spent={0: 1.5, 1: 0.9, 2: 1.1}))
    assert "  hospital-b            epsilon 0.90 of its own 8" in plain(described(lost, now=101.0)).splitlines()
    on = RunStatus.begun_with(begun(done=0, spent={0: 1.4, 1: 0.9, 2: 1.1}, reached=1.4), before=lost)
    assert (on.epsilon, on.spent[0]) == (1.4, 1.4)
    # A file of an earlier version does not say, and nothing is taken for zero.
    old = plain(described(run(asked(1, at=100.0)), now=101.0))
    assert "epsilon    not known of 2 at delta 0.001" in old
    assert "epsilon not known of its own 8" in old
    assert as_json(run(), now=0.0)["epsilon"] is None
    assert "epsilon    nothing yet of 2" in plain(described(run(reached=0.0), now=0.0))


def test_the_epsilon_of_a_simulation_protects_nobody_and_says_so():
    said = "           simulation: protects nobody, since its noise is seeded"
    for noise, expected in (("seeded", [said]), ("secure", []), (None, [])):
        status = run(done(1, epsilon=0.7, spent={0: 0.7}), noise=noise)
        lines = described(status, now=0.0, width=80)
        assert [line.text for line in lines if "nobody" in line.text] == expected
        assert as_json(status, now=0.0)["noise"] == noise
    place = [line.text[:7] for line in described(run(noise="seeded"), now=0.0)]
    assert place.index("epsilon") + 1 == [line.text for line in described(run(noise="seeded"), now=0.0)].index(said)


def test_secret_cohorts_leave_no_trace():
    withheld = run(Asked(time=0.0, round=1), Done(time=0.0, round=1, value=0.5, epsilon=0.7), withheld=True)
    shown = plain(described(withheld, now=1e9))
    assert "clients" not in shown
    assert "hospital" not in shown
    found = as_json(withheld, now=1e9)
    assert (found["cohort"], found["seconds"], found["left"], found["late"]) == (None, None, None, [])


def test_a_run_that_failed_says_why_and_how_to_go_on():
    status = run(Ended(time=0.0, status="failed", reason="round 2 has 1 usable result\nclient 1: no answer", round=1))
    lines = plain(described(status, now=0.0)).splitlines()
    assert lines[0] == "demo: failed; go on with --resume once the cause is corrected"
    assert lines[1:3] == ["  round 2 has 1 usable result", "  hospital-b (client 1): no answer"]


_rounds = st.integers(0, 6)
_clients = st.integers(0, 4)
_lines = st.one_of(
    st.builds(Asked, time=st.just(1.0), round=_rounds, clients=_clients, cohort=st.none() | st.tuples(_clients)),
    st.builds(Answered, time=st.just(1.0), round=_rounds, answered=_clients, client=st.none() | _clients),
    st.builds(
        Done,
        time=st.just(1.0),
        round=_rounds,
        seconds=st.none() | st.floats(0, 1e9),
        value=st.none() | st.floats(-1e300, 1e300),
        epsilon=st.none() | st.floats(0, 1e300),
        losses=st.just((Loss(client=1, reason="x"),)),
    ),
    st.builds(Note, time=st.just(1.0), text=st.text(max_size=300)),
    st.builds(
        Ended,
        time=st.just(1.0),
        status=st.sampled_from(["completed", "failed"]),
        reason=st.none() | st.text(),
        round=_rounds,
    ),
    st.builds(begun, done=_rounds, epsilon=st.none() | st.floats(0, 9), withheld=st.booleans()),
)


@given(st.lists(_lines, max_size=20), st.floats(0, 1e10), st.integers(20, 120))
def test_any_lines_can_be_shown_and_show_nothing_but_themselves(lines, now, width):
    status = run(*lines)
    assert len(status.history) <= KEPT
    as_json(status, now=now)
    for line in described(status, now=now, width=width):
        assert len(line.text) <= width
        assert line.text.isprintable()


def test_a_long_name_hides_neither_what_is_said_of_its_site_nor_of_the_others():
    names = {0: "hospital-a", 1: "W" * 100, 2: "hospital-c"}
    lost = done(1, spent={0: 0.7}, losses=(Loss(client=1, reason="the update is refused"),))
    status = run(lost, asked(2, at=100.0), Note(time=0.0, text="client 1 left"), names=names)
    lines = plain(described(status, now=1e6)).splitlines()
    cut = f"{'W' * 21}\N{HORIZONTAL ELLIPSIS}{'W' * 10}"
    assert f"late       hospital-a, {cut}, hospital-c" in lines
    assert f"  {'hospital-a':<32}  late      epsilon 0.70 of its own 8" in lines
    assert f"  {cut}  late      epsilon not known of its own 8" in lines
    assert any(line.endswith(f"round 1: {cut}: the update is refused") for line in lines)
    assert lines[-1] == f"{cut} (client 1) left"


@pytest.mark.parametrize("sites", [0, 1, 40, 1000])
def test_a_federation_of_any_size_fits_on_a_screen(sites):
    names = {client: f"site-{client}" for client in range(sites)}
    status = run(asked(1, at=0.0, cohort=tuple(names)), names=names, budgets={}, clients=sites)
    assert len(described(status, now=1e6)) <= 50
