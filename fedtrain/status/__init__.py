"""What is known of a run while it goes on: the lines of ``events.jsonl``, and what they add up to.

The server of a run writes the lines; a command, a page or a program reads them, also on another machine that has the
folder. They are for the operator of the server, and hold nothing that the report of the run would withhold.
"""

from fedtrain.status.lines import FILE, Answered, Asked, Begun, Done, Ended, Line, Note
from fedtrain.status.log import EventLog, Follower
from fedtrain.status.run import Problem, Round, RunStatus, as_json

__all__ = [
    "FILE",
    "Answered",
    "Asked",
    "Begun",
    "Done",
    "Ended",
    "EventLog",
    "Follower",
    "Line",
    "Note",
    "Problem",
    "Round",
    "RunStatus",
    "as_json",
]
