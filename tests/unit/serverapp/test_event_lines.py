import json

import pytest

from fedtrain.report import Dropped, RoundEntry
from fedtrain.serverapp.event_lines import EventLines
from fedtrain.serverapp.events import Notice, RoundDone, RunEnded
from fedtrain.status import Begun, Follower

BEGUN = Begun(time=1.0, name="x", mode="none", rounds=2, done=0, clients=2, deadline=9.0)
MORE = "; the report of the run says more"


@pytest.fixture
def written(tmp_path):
    """Give a function that writes events to a file, and returns the last of its lines."""

    def write(*events, quotes=True):
        path = tmp_path / "events.jsonl"
        with EventLines(path, quotes=quotes, clock=lambda: 2.0) as lines:
            lines.begin(BEGUN)
            for event in events:
                lines.show(event)
        assert Follower(path).status() is not None
        return json.loads(path.read_text().splitlines()[-1])

    return write


def done(reason="late", **values):
    entry = RoundEntry(
        round=1,
        cohort=(0, 1),
        completed=(1,),
        dropped=(Dropped(client=0, reason=reason),),
        sealed=False,
        secagg=None,
        clip_norm=None,
        learning_rate=0.1,
        seconds=1.0,
    )
    return RoundDone(**({"round": 1, "entry": entry, "evaluation": None, "epsilon": None} | values))


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("Traceback (most recent call last):\n  x\nValueError: Jane Doe", f"ValueError{MORE}"),
        ("Traceback (most recent call last):\n  x\nValueError: bad row:\nJane Doe", f"an exception{MORE}"),
        ("Traceback (most recent call last):\n  x\nValueError: bad row:\nJane Doe: 41", f"an exception{MORE}"),
        ("Traceback (most recent call last):\n  x\nmine.JaneDoe: 41", f"an exception{MORE}"),
        ("Traceback (most recent call last):\n  x\nfedtrain.errors.TaskError: Jane Doe", f"TaskError{MORE}"),
        ("Jane Doe", f"an exception{MORE}"),
        ("unusable update: the loss of Jane Doe", f"unusable update{MORE}"),
        ("no answer within federation.deadline = 9 seconds", "no answer within federation.deadline = 9 seconds"),
    ],
)
def test_where_reasons_may_quote_a_record_a_line_has_the_kind_of_error_alone(written, reason, shown):
    assert written(done(reason))["losses"] == [{"client": 0, "reason": shown}]


def test_elsewhere_a_line_has_the_cause(written):
    reason = "Traceback (most recent call last):\n  x\nClientError: training failed"
    assert written(done(reason), quotes=False)["losses"] == [{"client": 0, "reason": "ClientError: training failed"}]


def test_what_no_line_can_have_loses_no_run(written):
    line = written(done(epsilon=float("inf"), spent={0: float("inf"), 1: 0.5}))
    assert ("epsilon" in line, line["spent"]) == (False, {"1": 0.5})
    assert written(Notice(text="a \ud800"))["text"] == "a \N{REPLACEMENT CHARACTER}"
    ended = RunEnded(path=None, status="failed", reason="cannot write /\udcff", round=1, report=None)
    assert written(ended)["reason"] == "cannot write /\N{REPLACEMENT CHARACTER}"
