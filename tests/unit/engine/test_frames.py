import pytest

from fedtrain.engine.frames import (
    MAX_REASON,
    Failure,
    FrameError,
    Ready,
    Reply,
    Stop,
    Task,
    limit_reason,
    pack_frame,
    unpack_frame,
)


@pytest.mark.parametrize(
    "frame",
    [
        Task(ticket=2**60, slot=1, directory=1, arena=7, offset=2**40, length=2**33),
        Stop(),
        Ready(),
        Reply(ticket=3, directory=0, offset=5, length=6, has_state=True),
        Failure(ticket=4, code=8, reason="Grund: \N{LATIN SMALL LETTER U WITH DIAERESIS}"),
    ],
)
def test_frames_survive(frame):
    assert unpack_frame(pack_frame(frame)) == frame


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x01\x00", b"\x09", b"\x04" + bytes(10) + b"\xff"])
def test_other_bytes_are_refused(data):
    with pytest.raises(FrameError):
        unpack_frame(data)


def test_a_reason_is_cut_at_its_beginning():
    reason = limit_reason("x" * MAX_REASON + "end")
    assert reason.startswith("[3 characters cut]\nx")
    assert reason.endswith("xend")
    assert limit_reason("short") == "short"


def test_a_failure_fits_into_the_pipe_with_any_reason():
    assert len(pack_frame(Failure(ticket=1, code=2, reason="\N{GRINNING FACE}" * 100_000))) < 64_000
