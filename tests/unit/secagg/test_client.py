import os
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedtrain.crypto import SignedEnvelope, apply_mask
from fedtrain.errors import AggregationError, TransportError
from fedtrain.secagg import ClientState, MaskRequest
from fedtrain.trust import SessionSecrets
from tests.unit.secagg.federation import Federation, identity_of, stream, vectors_of

FEDERATION = Federation(7)
FIRST, SECOND, *_, LAST = FEDERATION.numbers
PARAMETERS = FEDERATION.parameters(6)
REQUEST = FEDERATION.round(PARAMETERS).request
LINES = REQUEST.announcements


def masked(federation=FEDERATION, parameters=PARAMETERS, lost=(), **others):
    """Run the first exchange, and return its clients and the requests of the second."""
    clients = federation.clients(**others)
    server = federation.round(parameters)
    for number, vector in vectors_of(parameters, federation.numbers).items():
        if number not in lost:
            clients[number].begin(server.request)
            server.receive(number, clients[number].mask(vector))
    return clients, server.close()


def refuses(answer, client, why):
    before = client.state
    with pytest.raises(TransportError, match=why):
        answer()
    assert client.state == before


def with_line(place, envelope):
    return (*LINES[:place], envelope.line(), *LINES[place + 1 :])


def flipped(envelope):
    return replace(envelope, signature=envelope.signature[:-1] + bytes([envelope.signature[-1] ^ 1]))


BROKEN = [
    (with_line(1, flipped(FEDERATION.announcements[SECOND])), "signature of key .* does not hold"),
    (with_line(1, FEDERATION.announce(SECOND, identity=identity_of("stranger"))), "not in the roster"),
    (with_line(1, FEDERATION.announce(SECOND, run="other")), "client 3 announced keys for another run: 'other'"),
    (with_line(1, FEDERATION.announce(SECOND, session="f" * 32)), "client 3 announced keys for another session: 'fff"),
    (with_line(1, FEDERATION.announce(SECOND, roster="f" * 64)), "client 3 announced keys for another roster: 'fff"),
    (with_line(1, FEDERATION.announce(SECOND, party="client-6")), "client 3 announced keys as 'client-6'"),
    (with_line(1, FEDERATION.announce(SECOND, party="server")), "client 3 announced keys as 'server'"),
    (with_line(1, FEDERATION.announcements[FIRST]), "client 0 is in the cohort twice"),
    (with_line(2, FEDERATION.announcements[SECOND]), "client 3 is in the cohort twice"),
    ((*LINES[:1], LINES[2], LINES[1], *LINES[3:]), "not in order: client 3 follows client 6"),
    ((*LINES[:1], b"{}\n", *LINES[2:]), "an announcement of session keys is refused: not an envelope"),
    ((*LINES[:1], LINES[1][:-1], *LINES[2:]), "does not end"),
    (LINES[1:], "client 0 is asked to take part, and is not in the cohort"),
    (
        with_line(0, FEDERATION.announce(FIRST, secrets=SessionSecrets(bytes(32)))),
        "the cohort has keys of client 0 that it did not announce last",
    ),
    (LINES[:-1], "a cohort of 6 is refused: its parameters are for 7"),
    ((), "client 0 is asked to take part, and is not in the cohort"),
]


@pytest.mark.parametrize(("lines", "why"), BROKEN)
def test_a_cohort_that_is_not_as_it_should_be_is_refused(lines, why):
    client = FEDERATION.client(FIRST)
    client.begin(REQUEST)
    request = replace(REQUEST, announcements=lines)
    refuses(lambda: client.begin(request), client, why)
    # What was begun before is over, too.
    refuses(lambda: client.mask(np.zeros(6, dtype=np.uint32)), client, "once for each round that was begun")


def test_an_announcement_of_something_else_is_refused():
    envelope = SignedEnvelope.sign("text/plain", b"", FEDERATION.identities[SECOND])
    client = FEDERATION.client(FIRST)
    refuses(
        lambda: client.begin(replace(REQUEST, announcements=with_line(1, envelope))), client, "of type 'text/plain'"
    )


@pytest.mark.parametrize("purpose", ["masking", "sharing"])
def test_a_key_that_leads_to_a_known_secret_is_refused_before_anything_is_trained(purpose):
    # RFC 7748, section 6.1: the product with a point of small order is zero whatever the private key.
    announcement = FEDERATION.announce(SECOND, **{purpose: bytes(32)})
    client = FEDERATION.client(FIRST)
    refuses(
        lambda: client.begin(replace(REQUEST, announcements=with_line(1, announcement))),
        client,
        f"an announcement of client 3 is refused: .* as 'client-3' have a {purpose} key that is refused: .* low order",
    )


def test_a_cohort_below_the_minimum_is_refused():
    FEDERATION.client(FIRST, minimum=7).begin(REQUEST)
    client = FEDERATION.client(FIRST, minimum=8)
    refuses(lambda: client.begin(REQUEST), client, "a cohort of 7 is refused: this site's minimum is 8")


@pytest.mark.parametrize("number", [0, 4, 5])
def test_a_round_that_is_not_later_is_refused(number):
    client = FEDERATION.client(FIRST, state=ClientState(round=5))
    refuses(lambda: client.begin(replace(REQUEST, round=number)), client, f"round {number} is refused: .* in round 5")
    client.begin(replace(REQUEST, round=6))


def test_round_0_is_none():
    client = FEDERATION.client(FIRST)
    refuses(lambda: client.begin(replace(REQUEST, round=0)), client, "round 0 is refused")


def test_parameters_that_are_not_safe_do_not_reach_a_client():
    for changes, why in (
        ({"threshold": 4}, "a threshold of 4 cannot be used where a secret has 7 holders: .* can be 5 to 7"),
        ({"neighbours": 4, "threshold": 4}, "a server that lies"),
        ({"bits": 30}, "30 bits"),
        ({"members": 1}, "a cohort of 2"),
        ({"bound": 0.0}, "a bound of 0.0"),
    ):
        with pytest.raises(TransportError, match=why):
            MaskRequest.from_fields(REQUEST.to_fields() | changes)


def test_a_client_that_is_not_who_its_announcement_says_is_refused():
    with pytest.raises(TransportError, match="the announcement of client 0 is signed by client 3"):
        replace_client(announcement=FEDERATION.announcements[SECOND])
    with pytest.raises(TransportError, match="client 0 announced other keys than it has"):
        replace_client(secrets=FEDERATION.secrets[SECOND])
    with pytest.raises(TransportError, match="for another roster"):
        replace_client(announcement=FEDERATION.announce(FIRST, roster="f" * 64))


def replace_client(**others):
    from fedtrain.secagg import Client

    arguments = {
        "client": FIRST,
        "secrets": FEDERATION.secrets[FIRST],
        "announcement": FEDERATION.announcements[FIRST],
        "roster": FEDERATION.roster,
        "minimum": 2,
        "state": ClientState(),
    }
    return Client(**arguments | others)


@pytest.mark.parametrize(
    ("vector", "why"),
    [
        (np.zeros(5, dtype=np.uint32), r"uint32 of shape \(5,\), and contiguous uint32 of shape \(6,\)"),
        (np.zeros((6, 1), dtype=np.uint32), "shape"),
        (np.zeros(6, dtype=np.int32), "int32"),
        (np.zeros(12, dtype=np.uint32)[::2], "contiguous"),
        (np.array([0, 0, 0, 0, 0, 32768], dtype=np.uint32), "larger than 32767"),
        (np.array([-32768, 0, 0, 0, 0, 0], dtype=np.int32).view(np.uint32), "larger than 32767"),
    ],
)
def test_a_vector_that_could_overflow_the_sum_is_refused(vector, why):
    client = FEDERATION.client(FIRST)
    client.begin(REQUEST)
    before = vector.copy()
    with pytest.raises(ValueError, match=why):
        client.mask(vector)
    assert client.state == ClientState()
    np.testing.assert_array_equal(vector, before)
    client.mask(np.zeros(6, dtype=np.uint32))


def test_one_vector_is_masked_for_a_round():
    client = FEDERATION.client(FIRST)
    refuses(lambda: client.mask(np.zeros(6, dtype=np.uint32)), client, "once for each round that was begun")
    assert client.begin(REQUEST) == PARAMETERS
    client.mask(np.zeros(6, dtype=np.uint32))
    assert client.state.round == 1
    refuses(lambda: client.mask(np.zeros(6, dtype=np.uint32)), client, "once for each round that was begun")
    refuses(lambda: client.begin(REQUEST), client, "round 1 is refused")


def test_each_message_can_meet_a_new_process():
    clients, requests = masked()
    kept = clients[FIRST].state.to_json()
    again = FEDERATION.client(FIRST, state=ClientState.from_json(kept))
    assert again.unmask(requests[FIRST]) == clients[FIRST].unmask(requests[FIRST])
    assert again.state == ClientState(round=1)


DROPPED = FEDERATION.numbers[2]


def request_for_first():
    clients, requests = masked(lost=[DROPPED])
    return clients[FIRST], requests[FIRST]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: {"round": 2}, "shares for round 2 are refused: the last round was 1"),
        (lambda r: {"round": 0}, "shares for round 0 are refused: the last round was 1"),
        (lambda r: {"binding": "0" * 64}, "its parameters, work or cohort were others"),
        (lambda r: {"survivors": r.survivors[:-1], "bundles": r.bundles[:-1]}, "not the cohort, each once"),
        (lambda r: {"dropped": ()}, "not the cohort, each once"),
        (lambda r: {"dropped": (1,)}, "not the cohort, each once"),
        (lambda r: {"dropped": (*r.dropped, LAST)}, "not the cohort, each once"),
        (lambda r: {"survivors": (*r.survivors, 100)}, "not the cohort, each once"),
        (
            lambda r: {"survivors": r.survivors[1:], "dropped": (FIRST, DROPPED), "bundles": r.bundles[1:]},
            "client 0 is no survivor in it",
        ),
        (
            lambda r: {"survivors": r.survivors[:4], "dropped": (DROPPED, *r.survivors[4:]), "bundles": r.bundles[:4]},
            "it has 4 survivors, and at least 5 must be",
        ),
        (lambda r: {"bundles": r.bundles[:-1]}, "5 bundles of shares came, and 6 are expected"),
        (lambda r: {"bundles": (*r.bundles, r.bundles[0])}, "7 bundles of shares came"),
        (
            lambda r: {"bundles": (*r.bundles[:-1], r.bundles[-1][:-1])},
            "the shares of client 18 have 143 bytes, and 144",
        ),
    ],
)
def test_a_request_for_shares_that_breaks_a_rule_is_refused(change, why):
    client, request = request_for_first()
    refuses(lambda: client.unmask(replace(request, **change(request))), client, why)
    client.unmask(request)


def test_shares_are_given_once():
    client, request = request_for_first()
    client.unmask(request)
    refuses(lambda: client.unmask(request), client, "shares for round 1 are refused: they were given once")


def test_no_shares_are_given_before_a_vector_was_masked():
    client, request = FEDERATION.client(FIRST), request_for_first()[1]
    refuses(lambda: client.unmask(request), client, "shares for round 1 are refused: the last round was 0")


def test_as_many_survivors_as_the_minimum_are_asked_for():
    clients, requests = masked(lost=[DROPPED], minimum=7)
    client, request = clients[FIRST], requests[FIRST]
    refuses(lambda: client.unmask(request), client, "it has 6 survivors, and at least 7 must be")


def test_a_later_round_ends_an_earlier_one():
    client, request = request_for_first()
    client.begin(replace(REQUEST, round=2))
    client.mask(np.zeros(6, dtype=np.uint32))
    refuses(lambda: client.unmask(request), client, "the last round was 2")


@pytest.mark.parametrize(
    ("change", "places"),
    [
        (lambda b: (*b[:-1], bytes(144)), (5,)),
        (lambda b: (b[1], b[0], *b[2:]), (0, 1)),
        (lambda b: (bytes(144),) * 6, range(6)),
    ],
)
def test_of_bundles_that_do_not_open_no_shares_are_given(change, places):
    client, request = request_for_first()
    whole = replace_client(state=client.state).unmask(request)
    shares = client.unmask(replace(request, bundles=change(request.bundles)))
    left = [place for place in range(6) if place not in places]
    assert shares.unreadable == tuple(request.survivors[place] for place in places)
    assert shares.own == b"".join(whole.own[32 * place : 32 * (place + 1)] for place in left)
    assert shares.pairs == b"".join(whole.pairs[16 * place : 16 * (place + 1)] for place in left)
    refuses(lambda: client.unmask(request), client, "they were given once")


def test_every_flipped_bit_of_a_bundle_is_noticed():
    before, request = request_for_first()
    bundle = request.bundles[3]
    for place in range(len(bundle)):
        wrong = bundle[:place] + bytes([bundle[place] ^ 1 << place % 8]) + bundle[place + 1 :]
        bundles = (*request.bundles[:3], wrong, *request.bundles[4:])
        client = replace_client(state=before.state)
        assert client.unmask(replace(request, bundles=bundles)).unreadable == (12,)


def test_every_flipped_byte_of_an_announcement_is_refused():
    client, line = FEDERATION.client(FIRST), LINES[1]
    for place in range(len(line)):
        wrong = line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :]
        request = replace(REQUEST, announcements=(LINES[0], wrong, *LINES[2:]))
        refuses(lambda r=request: client.begin(r), client, "an announcement")


def test_members_of_one_process_verify_each_announcement_once(monkeypatch):
    seen, verify = [], SignedEnvelope.verify
    monkeypatch.setattr(SignedEnvelope, "verify", lambda *given: seen.append(given[0]) or verify(*given))
    federation = Federation(4, seed="verified once")
    request = federation.round(federation.parameters(6)).request
    for client in federation.clients().values():
        client.begin(request)
    assert len(seen) == 4
    federation.client(FIRST).begin(request)
    assert len(seen) == 4


def test_an_announcement_that_was_verified_is_refused_where_its_identity_is_not_pinned():
    theirs = Federation(3, seed="theirs")
    for client in theirs.clients().values():
        client.begin(theirs.round(theirs.parameters(6)).request)
    line = theirs.announcements[SECOND]
    client = FEDERATION.client(FIRST)
    refuses(lambda: client.begin(replace(REQUEST, announcements=with_line(1, line))), client, "not in the roster")


@pytest.mark.parametrize(
    "told",
    [
        replace(REQUEST, round=2),
        replace(REQUEST, work="00" * 32),
        replace(REQUEST, parameters=FEDERATION.parameters(6, threshold=6)),
        replace(REQUEST, parameters=replace(PARAMETERS, bound=2.0)),
        replace(REQUEST, parameters=replace(PARAMETERS, bits=15)),
        replace(REQUEST, announcements=with_line(1, FEDERATION.announce(SECOND, secrets=SessionSecrets(bytes(32))))),
    ],
)
def test_a_client_that_was_told_of_another_round_is_out_of_step_with_all_others(told):
    clients, server = FEDERATION.clients(), FEDERATION.round(PARAMETERS)
    for number, client in clients.items():
        client.begin(told if number == LAST else server.request)
        server.receive(number, client.mask(np.zeros(6, dtype=np.uint32)))
    requests = server.close()
    assert clients[FIRST].unmask(requests[FIRST]).unreadable == (LAST,)
    refuses(
        lambda: clients[LAST].unmask(requests[LAST]),
        clients[LAST],
        "are refused: (its parameters, work|the last round)",
    )


def test_vectors_for_different_work_have_no_sum():
    """Not even for a server that tells each client what it wants to hear."""
    clients = FEDERATION.clients()
    servers = [FEDERATION.round(PARAMETERS, work=work * 32) for work in ("00", "01")]
    told = {number: servers[number == LAST] for number in FEDERATION.numbers}
    for number, client in clients.items():
        client.begin(told[number].request)
        masked = client.mask(np.zeros(6, dtype=np.uint32))
        for server in servers:
            server.receive(number, masked)
    requests = {server: server.close() for server in servers}
    shares = {number: client.unmask(requests[told[number]][number]) for number, client in clients.items()}
    assert shares[LAST].unreadable == FEDERATION.numbers[:-1]
    for number, given in shares.items():
        servers[0].receive_shares(number, given)
    with pytest.raises(AggregationError, match=r"of client 18 could not be read by clients 0, .*, 15: either"):
        servers[0].finish()


def test_never_both_kinds_for_one_client():
    clients, requests = masked(lost=[DROPPED])
    shares = clients[FIRST].unmask(requests[FIRST])
    # For six survivors a share of the self-mask, and of one pair each: that with the client that dropped out.
    assert (len(shares.own), len(shares.pairs)) == (6 * 32, 6 * 16)
    clients, requests = masked()
    shares = clients[FIRST].unmask(requests[FIRST])
    assert (len(shares.own), len(shares.pairs)) == (7 * 32, 0)


def test_a_new_self_mask_is_drawn_for_each_vector():
    sent = []
    for _ in range(2):
        client = FEDERATION.client(FIRST)
        client.begin(REQUEST)
        sent.append(client.mask(np.zeros(6, dtype=np.uint32)))
    assert sent[0].words.tobytes() != sent[1].words.tobytes()
    assert not set(sent[0].bundles) & set(sent[1].bundles)


def test_no_secret_is_in_the_state_or_in_what_it_prints_as():
    drawn = []

    def random(size):
        drawn.append(os.urandom(size))
        return drawn[-1]

    client = FEDERATION.client(FIRST, random=random)
    client.begin(REQUEST)
    client.mask(np.zeros(6, dtype=np.uint32))
    printed = repr(client.state) + repr(client) + client.state.to_json().decode()
    assert all(secret.hex()[:16] not in printed and repr(secret)[2:20] not in printed for secret in drawn)
    clients, requests = masked()
    assert repr(clients[FIRST].unmask(requests[FIRST])) == "UnmaskedShares(unreadable=())"


# A right mask fails by chance once in a million runs; a planted wrong one is rejected at the level of 1e-9.
LIKELY, IMPOSSIBLE = 1e-6, 1e-9
COUNT = 1 << 19


def chi_square(words):
    """Return the least p-value of the bytes at each place of a word."""
    places = words.view(np.uint8).reshape(len(words), -1).T
    return min(stats.chisquare(np.bincount(place, minlength=256)).pvalue for place in places)


def test_the_words_of_one_client_are_uniform():
    federation = Federation(3, "uniform")
    parameters = federation.parameters(COUNT, 31 - 1)
    client = federation.client(FIRST, random=stream("uniform"))
    client.begin(federation.round(parameters).request)
    words = client.mask(np.full(COUNT, 7, dtype=np.uint32)).words
    assert parameters.width == 4
    assert chi_square(words.view(np.uint32)) > LIKELY
    words = words.view(np.uint32)
    assert stats.kstest(words / 2**32, "uniform").pvalue > LIKELY
    assert stats.pearsonr(words[1:], words[:-1]).pvalue > LIKELY


@pytest.mark.parametrize("weak", ["few bits", "of Flower", "small range"])
def test_a_weak_mask_is_rejected(weak):
    if weak == "of Flower":
        from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

        (mask,) = pseudo_rand_gen(bytes(range(32)), 1 << 22, [(COUNT,)])
        words = mask.astype(np.uint32)
    else:
        words = np.random.default_rng(0).integers(0, 2**32, COUNT, dtype=np.uint32)
        words = words & np.uint32(0x7FFFFFFF) if weak == "few bits" else words % np.uint32(250 << 24)
    assert chi_square(words) < IMPOSSIBLE


def test_seeds_that_collide_in_the_generator_of_flower_give_other_masks():
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    # It adds up the seed's eight words by exclusive or: swapping two of them changes nothing.
    one = bytes(range(32))
    other = one[4:8] + one[:4] + one[8:]
    theirs = [pseudo_rand_gen(seed, 1 << 22, [(1000,)])[0] for seed in (one, other)]
    np.testing.assert_array_equal(*theirs)
    ours = [np.zeros(1000, dtype=np.uint32) for _ in range(2)]
    for vector, seed in zip(ours, (one, other), strict=True):
        apply_mask(vector, seed, sign=1)
    assert (ours[0] == ours[1]).sum() < 5
