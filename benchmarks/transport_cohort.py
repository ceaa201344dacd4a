"""One aggregation by fedtrain with real keys, step by step as a deployment does it, and what each party worked."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from transport_measure import Meter, Stopwatch, Work

from fedtrain.crypto import SealingKey
from fedtrain.flower.messages.sealed import Packed, arrays_of, own_of
from fedtrain.flower.messages.secagg import MaskReply, UnmaskReply
from fedtrain.messaging import Body, Header, seal
from fedtrain.secagg import ClientState, MaskedVector, Parameters, UnmaskedShares, quantize
from fedtrain.trust import SERVER, client_name
from tests.unit.secagg.federation import RUN, SESSION, Federation

HEADER = Header(
    run=RUN,
    session=SESSION,
    config="0" * 64,
    phase="train",
    round=1,
    direction="to server",
    sender=client_name(0),
    recipient=SERVER,
    sequence=1,
)


def run(
    members: int,
    updates: Callable[[int], NDArray[np.float32]],
    *,
    lost: int = 0,
    silent: int = 0,
    traced: bool = False,
) -> Work:
    """Run a round in which the first clients are lost before they mask and the next ones before they unmask.

    Each exchange of a client begins with its keys and its state alone, as in a process of its own. Memory is traced on
    request, since that takes time.

    Raises:
        ValueError: the sum is wrong.
    """
    federation, length = Federation(members), len(updates(0))
    parameters = Parameters.plan(members=members, length=length, bits=16, bound=8.0)
    server, meter = Stopwatch(), Meter()
    work = meter.metered if traced else server.timed
    clients = {number: Stopwatch() for number in federation.numbers[lost:]}
    machine = work(federation.round, parameters)
    states: dict[int, bytes] = {}
    expected = np.zeros(length, dtype=np.uint32)
    first = second = 0
    for number, stopwatch in clients.items():
        update, random = updates(number), np.random.default_rng(number)
        client = stopwatch.timed(federation.client, number)
        stopwatch.timed(client.begin, machine.request)
        words = stopwatch.timed(quantize, update, parameters=parameters, random=random)
        expected += words
        masked = stopwatch.timed(client.mask, words)
        states[number] = stopwatch.timed(client.state.to_json)
        first = first or on_the_wire(masked)
        work(machine.receive, number, masked)
    requests = work(machine.close)
    for number in federation.numbers[lost + silent :]:
        state = ClientState.from_json(states[number])
        client = clients[number].timed(federation.client, number, state=state)
        shares = clients[number].timed(client.unmask, requests[number])
        second = second or on_the_wire(shares)
        work(machine.receive_shares, number, shares)
    aggregate = work(machine.finish)
    if aggregate.survivors != tuple(clients) or not np.array_equal(aggregate.total, expected):
        raise ValueError("the sum is not that of the quantized updates")
    return Work(
        server=server.seconds,
        clients=tuple(stopwatch.seconds for stopwatch in clients.values()),
        sent=first + second,
        peak=meter.peak,
    )


def on_the_wire(answer: MaskedVector | UnmaskedShares) -> int:
    """Return the bytes of an answer as the transport sends it: its header, its sealed part and its body."""
    reply = MaskReply(masked=answer) if isinstance(answer, MaskedVector) else UnmaskReply(shares=answer)
    content = reply.to_records()
    identity = Federation(2).identities[0]
    body = Body.encrypt(arrays_of(content))
    key = SealingKey(bytes(32)).public
    sealed = seal(HEADER, body=body, own=own_of(content), identity=identity, recipient=key)
    packed = Packed(header=HEADER.encode(), sealed=sealed, body=body.ciphertext)
    return len(packed.header) + len(packed.sealed) + len(packed.body)
