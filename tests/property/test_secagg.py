"""The sum is the plain sum of the survivors' vectors, bit for bit, whoever is lost and when."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtrain.secagg import Parameters, dequantize, quantize
from tests.unit.secagg.federation import Federation, aggregate, plain_sum, vectors_of

FEDERATIONS = {}


def federation(members):
    if members not in FEDERATIONS:
        FEDERATIONS[members] = Federation(members)
    return FEDERATIONS[members]


def check(members, parameters, lost=(), silent=(), seed=0):
    cohort = federation(members)
    vectors = vectors_of(parameters, cohort.numbers, seed)
    result = aggregate(cohort.round(parameters), cohort.clients(), vectors, lost=lost, silent=silent)
    survivors = tuple(number for number in cohort.numbers if number not in lost)
    assert result.total.dtype == np.uint32
    np.testing.assert_array_equal(result.total, plain_sum(vectors[number] for number in survivors))
    assert (result.survivors, result.silent, result.doubts) == (survivors, tuple(silent), ())


@st.composite
def rounds(draw):
    members = draw(st.integers(2, 24))
    bits = draw(st.integers(2, 27))
    losable = min(3 * members // 10, members - federation(members).parameters().threshold)
    count = draw(st.integers(0, losable))
    gone = draw(st.permutations(federation(members).numbers))[:count]
    first = draw(st.integers(0, count))
    return members, bits, sorted(gone[:first]), sorted(gone[first:])


@settings(max_examples=25, deadline=None)
@given(planned=rounds(), length=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_the_sum_is_the_plain_sum(planned, length, seed):
    members, bits, lost, silent = planned
    check(members, federation(members).parameters(length, bits), lost, silent, seed)


@pytest.mark.parametrize("first", [0, 7, 15])
def test_three_in_ten_may_be_lost_over_the_two_exchanges(first):
    gone = federation(50).numbers[5:20]
    check(50, federation(50).parameters(1000), gone[:first], gone[first:])


@pytest.mark.parametrize("members", range(10, 201))
def test_the_default_threshold_leaves_room_for_three_in_ten(members):
    parameters = Parameters.plan(members=members, length=1, bits=8, bound=1.0)
    assert members - parameters.threshold >= 3 * members // 10
    # Fewer than a third colluding, and never a server alone, reach it twice.
    colluding = -(-members // 3) - 1
    assert members + colluding < 2 * parameters.threshold


@pytest.mark.slow
def test_a_complete_graph_of_two_hundred():
    gone = federation(200).numbers[::4][:60]
    check(200, federation(200).parameters(2000), gone[:30], gone[30:])


@pytest.mark.slow
def test_a_sparse_graph():
    cohort = federation(201)
    parameters = cohort.parameters(100)
    assert parameters.neighbours < 100
    gone = cohort.numbers[::7]
    check(201, parameters, gone[:14], gone[14:20])


@pytest.mark.slow
def test_ten_million_coordinates():
    check(4, federation(4).parameters(10_000_000), lost=federation(4).numbers[2:3])


@pytest.mark.parametrize(("members", "bits", "width"), [(2, 7, 1), (2, 15, 2), (8, 20, 3), (5, 24, 4), (2, 31, 4)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_that_fits_is_exact(members, bits, width, sign):
    cohort = federation(members)
    parameters = cohort.parameters(3, bits)
    assert parameters.width == width
    vectors = {
        number: np.full(3, sign * parameters.largest, dtype=np.int32).view(np.uint32) for number in cohort.numbers
    }
    result = aggregate(cohort.round(parameters), cohort.clients(), vectors)
    assert result.total.view(np.int32).tolist() == [sign * members * parameters.largest] * 3


def test_values_go_in_and_their_sum_comes_out():
    cohort = federation(6)
    parameters = cohort.parameters(1001, 20)
    random = np.random.default_rng(3)
    values = {number: random.uniform(-1, 1, 1000) for number in cohort.numbers}
    counts = dict(zip(cohort.numbers, (0, 1, 7, 300, 524_287, 12), strict=True))
    vectors = {
        number: np.append(quantize(values[number], parameters=parameters, random=random), np.uint32(counts[number]))
        for number in cohort.numbers
    }
    total = aggregate(cohort.round(parameters), cohort.clients(), vectors).total
    expected = np.sum(list(values.values()), axis=0)
    assert total[-1] == sum(counts.values())
    assert np.abs(dequantize(total[:-1], parameters=parameters) - expected).max() <= len(values) * parameters.step


def test_rounds_of_one_session_have_nothing_in_common():
    cohort = federation(5)
    clients = cohort.clients()
    parameters = cohort.parameters(200)
    vectors = vectors_of(parameters, cohort.numbers)
    sent = []
    for number in (1, 2, 9):
        server = cohort.round(parameters, number)
        for client, one in clients.items():
            one.begin(server.request)
            masked = one.mask(vectors[client].copy())
            sent.append(masked.words.tobytes())
            server.receive(client, masked)
        for client, request in server.close().items():
            server.receive_shares(client, clients[client].unmask(request))
        np.testing.assert_array_equal(server.finish().total, plain_sum(vectors.values()))
    assert len(set(sent)) == len(sent)
