"""A header, for tests of what is bound to one."""

from fedtrain.messaging import Header

HEADER = Header(
    run="0123",
    session="4567",
    config="89ab",
    phase="train",
    round=3,
    direction="to client",
    sender="server",
    recipient="client-1",
    sequence=12,
)
