"""One small round of secure aggregation, byte for byte. It was written once, with published keys.

Four clients, of whom one is lost in the first exchange. A change that breaks a test here makes clients and servers of
two versions of the program misunderstand each other.
"""

import json
from pathlib import Path

import numpy as np

from fedtrain.crypto import SignedEnvelope
from fedtrain.secagg import ClientState, MaskedVector, MaskRequest, ServerRound, UnmaskedShares, UnmaskRequest
from tests.unit.secagg.federation import RUN, SESSION, Federation, plain_sum, stream

FILE = Path(__file__).parent / "secagg.json"
FEDERATION = Federation(4, "vector", numbers=(0, 2, 3, 10))
LOST = 2
PARAMETERS = FEDERATION.parameters(3, 12)
VECTORS = {
    0: [1, -2, 2047],
    2: [5, 5, 5],
    3: [-2047, 0, 2047],
    10: [100, 7, 2047],
}


def words_of(number):
    return np.array(VECTORS[number], dtype=np.int32).view(np.uint32)


def as_json(value):
    """Write bytes in hexadecimal."""
    match value:
        case bytes():
            return value.hex()
        case np.ndarray():
            return value.tobytes().hex()
        case dict():
            return {str(key): as_json(item) for key, item in value.items()}
        case list() | tuple():
            return [as_json(item) for item in value]
    return value


def one_round():
    """Run the round, and return everything that was said, kept and added."""
    server = FEDERATION.round(PARAMETERS, 7)
    survivors = [number for number in FEDERATION.numbers if number != LOST]
    clients = {number: FEDERATION.client(number, random=stream(f"vector {number} masks")) for number in survivors}
    masked, states = {}, {}
    for number, client in clients.items():
        client.begin(server.request)
        masked[number] = client.mask(words_of(number))
        states[number] = client.state.to_json().decode()
        server.receive(number, masked[number])
    requests = server.close()
    shares = {number: client.unmask(requests[number]) for number, client in clients.items()}
    for number, given in shares.items():
        server.receive_shares(number, given)
    return as_json(
        {
            "secrets": {number: stream(f"vector {number}")(32) for number in FEDERATION.numbers},
            "vectors": VECTORS,
            "request": server.request.to_fields(),
            "masked": {number: message.to_fields() | {"words": message.words} for number, message in masked.items()},
            "states": states,
            "unmask": {number: request.to_fields() for number, request in requests.items()},
            "shares": {number: given.to_fields() for number, given in shares.items()},
            "total": server.finish().total.view(np.int32).tolist(),
        }
    )


def written():
    return json.loads(FILE.read_bytes())


def as_fields(value, *of_bytes):
    return {
        name: ([bytes.fromhex(x) for x in item] if isinstance(item, list) else bytes.fromhex(item))
        if name in of_bytes
        else item
        for name, item in value.items()
    }


def test_what_is_said_is_what_was_said():
    said, before = one_round(), written()
    assert said.keys() == before.keys()
    for part, value in before.items():
        assert said[part] == value, part


def test_a_server_reads_what_was_said():
    before = written()
    request = MaskRequest.from_fields(as_fields(before["request"], "announcements"))
    envelopes = [SignedEnvelope.from_line(line) for line in request.announcements]
    server = ServerRound(
        run=RUN,
        session=SESSION,
        number=request.round,
        parameters=request.parameters,
        work=request.work,
        announcements=dict(zip(FEDERATION.numbers, envelopes, strict=True)),
    )
    assert server.request == request
    for number, value in before["masked"].items():
        fields = as_fields(value, "bundles", "commitments", "words")
        words = np.frombuffer(fields.pop("words"), dtype=np.uint8)
        server.receive(int(number), MaskedVector.from_fields(fields, words))
    requests = server.close()
    assert {str(number): as_json(request.to_fields()) for number, request in requests.items()} == before["unmask"]
    for number, value in before["shares"].items():
        server.receive_shares(int(number), UnmaskedShares.from_fields(as_fields(value, "own", "pairs")))
    total = server.finish().total
    assert total.view(np.int32).tolist() == before["total"]
    np.testing.assert_array_equal(total, plain_sum(words_of(number) for number in (0, 3, 10)))


def test_a_client_goes_on_from_what_was_kept():
    before = written()
    for number, kept in before["states"].items():
        client = FEDERATION.client(int(number), state=ClientState.from_json(kept.encode()))
        request = UnmaskRequest.from_fields(as_fields(before["unmask"][number], "bundles"))
        assert as_json(client.unmask(request).to_fields()) == before["shares"][number]
