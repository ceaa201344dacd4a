import contextlib
import io
import os
import pty
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedtrain.report import Dropped, Evaluation, RoundEntry
from fedtrain.serverapp.events import ClientDone, Notice, RoundDone, RoundStarted, RunEnded, RunStarted
from fedtrain.serverapp.preparation import Preparation
from fedtrain.serverapp.reporting import build_report
from fedtrain.serverapp.screen import (
    LiveScreen,
    NotebookScreen,
    PlainScreen,
    SilentScreen,
    _rounded_up,
    closing_table,
    make_screen,
)


def entry(number=2, *, dropped=(), seconds=4.0):
    return RoundEntry(
        round=number,
        cohort=(0, 1, 2),
        completed=tuple(client for client in (0, 1, 2) if client not in dict(dropped)),
        dropped=tuple(Dropped(client=client, reason=reason) for client, reason in dict(dropped).items()),
        sealed=False,
        secagg=None,
        clip_norm=None,
        learning_rate=0.1,
        seconds=seconds,
    )


def started(rounds=10, done=0):
    return RunStarted(path=Path("runs/x"), rounds=rounds, done=done, introduction="[red]introduction[/red] 1")


def finished(number=2, accuracy=None, epsilon=None, **facts):
    evaluation = None if accuracy is None else Evaluation(round=number, accuracy=accuracy)
    return RoundDone(round=number, entry=entry(number, **facts), evaluation=evaluation, epsilon=epsilon)


def ended(status="interrupted"):
    return RunEnded(path=Path("runs/x"), status=status, reason="why", round=2, report=None)


def answered(number):
    return ClientDone(round=2, answered=number, clients=3)


DROPPED = {1: "Traceback\n  File\nValueError: bad\n", 2: "no answer"}


def test_plain_lines_say_where_the_run_stands(capsys):
    with PlainScreen() as screen:
        screen.show(started())
        screen.show(RoundStarted(round=1, clients=3))
        screen.show(ClientDone(round=1, answered=1, clients=3))
        screen.show(finished(1, 0.5, 1.25, seconds=2.0))
        screen.show(finished(2, 0.98765, 1.2501, seconds=4.0))
        screen.show(Notice(text="client 3 is late"))
        screen.show(ended())
        screen.show(ended("failed"))
    introduction, first, second, notice, stopped = capsys.readouterr().out.splitlines()
    assert introduction == "[red]introduction[/red] 1"
    assert first == "round 1/10  clients 3/3  accuracy 0.5000  epsilon 1.250  time left 18 s"
    # Eight rounds are left, at three seconds each on average.
    assert second == "round 2/10  clients 3/3  accuracy 0.9876  epsilon 1.251  time left 24 s"
    assert notice == "client 3 is late"
    assert stopped.startswith("stopped after round 2; completed rounds are saved.")


def test_plain_lines_leave_out_what_is_not_known_and_name_who_was_dropped(capsys):
    screen = PlainScreen()
    screen.show(started(2))
    screen.show(finished(2, dropped=DROPPED))
    assert capsys.readouterr().out.splitlines()[1:] == [
        "round 2/2  clients 1/3  time left 0 s",
        "round 2: dropped client 1: ValueError: bad",
        "round 2: dropped client 2: no answer",
    ]


def text_stream(file, encoding):
    return io.TextIOWrapper(file, encoding=encoding, write_through=True)


@pytest.mark.parametrize("screen", [PlainScreen, LiveScreen])
@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", b"caf\\xe9 \\u2603"), ("latin-1", b"caf\xe9 \\u2603"), ("utf-8", "café ☃".encode())],
)
def test_what_the_output_cannot_show_is_escaped(monkeypatch, screen, encoding, shown):
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", text_stream(file, encoding))
    with screen() as shows:
        shows.show(started())
        shows.show(Notice(text="café ☃"))
        shows.show(finished(1, 0.5))
    assert shown in file.getvalue()


def test_a_run_goes_on_where_nobody_reads_what_it_prints(monkeypatch):
    read, write = os.pipe()
    stream = io.TextIOWrapper(io.FileIO(write, "w"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    screen = PlainScreen()
    screen.show(Notice(text="read"))
    os.close(read)
    for _ in range(3):
        screen.show(Notice(text="not read"))
    stream.close()  # what was left in it is no error either


class Tee:
    """Stands in for standard output and keeps what is printed, with no more than printing needs."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_plain_lines_go_to_whatever_a_program_prints_to(monkeypatch):
    tee = Tee()
    monkeypatch.setattr(sys, "stdout", tee)
    PlainScreen().show(Notice(text="caf\N{LATIN SMALL LETTER E WITH ACUTE}"))
    assert tee.text == "caf\N{LATIN SMALL LETTER E WITH ACUTE}\n"


def test_a_process_without_standard_output_has_a_screen_all_the_same(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with make_screen("auto") as screen:
        screen.show(Notice(text="to nobody"))


@pytest.mark.parametrize("screen", [PlainScreen, LiveScreen])
@pytest.mark.parametrize(
    ("done", "said"),
    [
        (0, []),
        (4, ["goes on after round 4 of 10"]),
        (10, ["all 10 rounds were complete already: only the report is written again"]),
    ],
)
def test_a_resumed_run_says_where_it_goes_on(capsys, screen, done, said):
    screen().show(started(10, done))
    assert capsys.readouterr().out.splitlines() == ["[red]introduction[/red] 1", *said]


def test_a_silent_screen_is_silent(capsys):
    with SilentScreen() as screen:
        for event in (started(), answered(1), finished(dropped=DROPPED), Notice(text="x"), ended()):
            screen.show(event)
    assert capsys.readouterr() == ("", "")


class Cell:
    """The output of a notebook's cell, as IPython's display fills it."""

    def __init__(self):
        self.displays, self.updates = 0, []

    def display(self, data, *, raw, display_id):
        assert raw
        assert display_id
        self.displays += 1
        self.update(data, raw=True)
        return self

    def update(self, data, *, raw):
        assert raw
        self.updates.append(data["text/plain"].splitlines())


def test_a_notebook_has_one_display_which_a_long_run_does_not_fill():
    cell = Cell()
    with NotebookScreen(cell.display) as screen:
        screen.show(started(1000))
        for number in range(1, 1001):
            screen.show(RoundStarted(round=number, clients=3))
            screen.show(ClientDone(round=number, answered=1, clients=3))
            screen.show(finished(number, dropped={1: "gone"} if number == 3 else ()))
        screen.show(Notice(text="client 3 is late"))
        screen.show(ended())
    assert cell.displays == 1
    assert max(map(len, cell.updates)) <= 2 + 12 + 1
    last = cell.updates[-1]
    assert last[:2] == ["[red]introduction[/red] 1", "client 3 is late"]
    assert last[2].startswith("round 989/1000")
    assert last[-2].startswith("round 1000/1000")
    assert last[-1].startswith("stopped after round 2")


def test_a_notebook_is_not_drawn_more_often_than_can_be_seen(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    cell = Cell()
    screen = NotebookScreen(cell.display)
    screen.show(started())
    for number in (1, 2):
        screen.show(answered(number))
    assert len(cell.updates) == 1
    now[0] += 0.3
    screen.show(answered(3))
    assert cell.updates[1:] == [["[red]introduction[/red] 1", "round 2: clients 3/3"]]


def drawn(monkeypatch, use):
    """Return all that a live screen writes to a terminal while it is used."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(
        "fedtrain.serverapp.screen.Console", lambda: Console(file=stream, force_terminal=True, width=120)
    )
    stream = io.StringIO()
    use(LiveScreen())
    return stream.getvalue()


def test_a_live_screen_draws_progress_and_prints_above_it(monkeypatch):
    def use(screen):
        screen.show(started(5, done=1))
        with screen:
            screen.show(RoundStarted(round=2, clients=3))
            screen._progress.refresh()
            screen.show(answered(1))
            screen._progress.refresh()
            screen.show(finished(2, 0.25, 2.0001, dropped={1: "Traceback\nOSError: gone"}))
            screen.show(Notice(text="client 3 is late"))
            screen.show(ended())

    text = drawn(monkeypatch, use)
    assert "[red]introduction[/red] 1" in text
    assert "1/5" in text
    assert "clients 0/3" in text
    assert "clients 1/3" in text
    assert "2/5" in text
    assert "clients 2/3 accuracy 0.2500  epsilon 2.001" in text
    assert "round 2: dropped client 1: OSError: gone" in text
    assert "client 3 is late" in text
    assert "stopped after round 2" in text


def test_a_live_screen_stops_drawing_when_a_round_fails(monkeypatch):
    def use(screen):
        screen.show(started())
        with contextlib.suppress(KeyboardInterrupt), screen:
            screen.show(RoundStarted(round=2, clients=3))
            raise KeyboardInterrupt
        assert not screen._progress.live.is_started

    # The cursor, hidden while drawing, is shown again.
    assert drawn(monkeypatch, use).rstrip().endswith("\x1b[?25h")


def test_a_terminal_gets_a_display_and_a_pipe_gets_lines(monkeypatch):
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb"), os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert isinstance(make_screen("auto"), LiveScreen)
        assert type(make_screen("plain")) is PlainScreen
        assert type(make_screen("none")) is SilentScreen
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert type(make_screen("auto")) is PlainScreen


@given(st.floats(0, 1e9))
def test_an_epsilon_is_never_shown_as_less_than_it_is(epsilon):
    shown = Fraction(_rounded_up(epsilon))
    assert Fraction(epsilon) <= shown + Fraction(1, 10**12) * max(1, int(epsilon))
    assert shown - Fraction(epsilon) < Fraction(1001, 1_000_000)


@pytest.mark.parametrize(
    ("epsilon", "shown"), [(0.0, "0.000"), (1e-12, "0.001"), (2.001, "2.001"), (2.0010001, "2.002"), (7.9999, "8.000")]
)
def test_epsilons_are_rounded_up(epsilon, shown):
    assert _rounded_up(epsilon) == shown


def table(preparation: Preparation, state, trail=None):
    report = build_report(
        preparation, state, trail, run="this", status="interrupted", reason=None, final=None, best=None
    )
    return report, [line.split() for line in closing_table(report).splitlines()]


def test_the_closing_table_shows_accuracy_and_epsilon(private, notary, make_state):
    cohorts = {1: (0, 1), 2: (0, 2)}
    for number, cohort in cohorts.items():
        notary.round(number, cohort)
    report, lines = table(private, make_state(cohorts, accuracies=(0.1, 0.23456, None)), notary.trail)
    # Of 359 test digits, 39 are of the most frequent class.
    assert lines[0] == ["round", "central", "accuracy", "baseline", "epsilon"]
    assert lines[1] == ["0", "0.1000", "0.1086", "0.000"]
    assert lines[2][:3] == ["1", "0.2345", "0.1086"]
    assert float(lines[2][3]) > 0
    assert lines[3] == ["2", "0.1086", _rounded_up(report.privacy.epsilon)]
    assert float(lines[3][2]) >= report.privacy.epsilon


def test_the_closing_table_promises_nothing_without_privacy(plain, make_state):
    _, lines = table(plain, make_state({1: (0, 1)}, accuracies=(0.1, 0.5)))
    assert lines[1:] == [["0", "0.1000", "0.1086", "no", "guarantee"], ["1", "0.5000", "0.1086", "no", "guarantee"]]


@pytest.mark.parametrize("rounds", [0, 1, 11, 12, 23, 24, 100])
def test_a_long_table_is_thinned_out_and_ends_with_the_last_round(plain, make_state, rounds):
    state = make_state(accuracies=tuple(0.5 for _ in range(rounds + 1)))
    report, _ = table(plain, make_state())
    evaluations = report.evaluation.model_copy(update={"history": state.evaluations})
    lines = closing_table(report.model_copy(update={"evaluation": evaluations})).splitlines()[1:]
    assert 1 <= len(lines) <= 12
    numbers = [int(line.split()[0]) for line in lines]
    assert numbers[-1] == rounds
    assert len({after - before for before, after in pairwise(numbers)}) <= 1


def test_a_table_of_nothing(plain, make_state):
    _, lines = table(plain, make_state())
    assert lines == [["round", "central", "accuracy", "baseline", "epsilon"]]
    _, lines = table(replace(plain, baseline=None), make_state())
    assert lines == [["round", "central", "accuracy", "epsilon"]]


def test_a_result_stands_beside_its_baseline(capsys):
    done = replace(finished(1, 0.76), baseline=0.7607)
    PlainScreen().show(done)
    assert "accuracy 0.7600 (baseline 0.7607)" in capsys.readouterr().out


def many_dropped(reasons):
    clients = tuple(range(len(reasons)))
    dropped = tuple(Dropped(client=client, reason=f"Traceback\n{reason}") for client, reason in enumerate(reasons))
    log = entry().model_copy(update={"cohort": clients, "completed": (), "dropped": dropped})
    return RoundDone(round=2, entry=log, evaluation=None, epsilon=None)


def test_clients_are_dropped_in_one_line_for_each_reason_by_their_names(capsys):
    screen = PlainScreen()
    screen.show(replace(started(), owners=("Mercy", "St. John", "General")))
    screen.show(many_dropped(["ValueError: one record", "KeyError", "ValueError: one record"]))
    assert capsys.readouterr().out.splitlines()[2:] == [
        "round 2: dropped clients 0 (Mercy), 2 (General): ValueError: one record",
        "round 2: dropped client 1 (St. John): KeyError",
    ]


@pytest.mark.parametrize("reasons", [["the same"] * 10_000, list(map(str, range(10_000)))])
def test_ten_thousand_dropped_clients_take_few_lines(capsys, reasons):
    PlainScreen().show(many_dropped(reasons))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 7
    assert len(max(lines, key=len)) < 200


def test_warnings_are_said_at_the_end(plain, make_state, capsys):
    report, _ = table(plain, make_state({1: (0, 1)}, accuracies=(0.1, 0.1)))
    PlainScreen().show(replace(ended("completed"), report=report))
    assert "warning: accuracy 0.1000 after round 1 is no better than the baseline of 0.1086" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [PlainScreen, LiveScreen])
def test_a_warning_of_the_beginning_is_not_said_again_at_the_end(plain, make_state, monkeypatch, kind):
    report, _ = table(plain, make_state({1: (0, 1)}, accuracies=(0.1, 0.1)))
    warning, *others = report.warnings
    monkeypatch.setattr(sys, "stdout", stream := io.StringIO())
    monkeypatch.setattr(
        "fedtrain.serverapp.screen.Console", lambda **how: Console(**{"file": stream, "width": 400} | how)
    )
    screen = kind()
    screen.show(Notice(text=f"warning: {warning}"))
    screen.show(replace(ended("completed"), report=report))
    said = stream.getvalue()
    assert said.count(warning) == 1
    assert all(other in said for other in others)
    assert "report: " in said


def test_the_end_of_a_simulation_says_that_its_epsilon_protects_nobody(private, plain, notary, make_state, capsys):
    notary.round(1, (0, 1))
    simulated, _ = table(private, make_state({1: (0, 1)}), notary.trail)
    bare, _ = table(plain, make_state({1: (0, 1)}))
    for report, said in ((simulated, 1), (bare, 0)):
        PlainScreen().show(replace(ended("completed"), report=report))
        text = capsys.readouterr().out
        assert text.count("simulation: its epsilon protects nobody, since its noise is seeded") == said
