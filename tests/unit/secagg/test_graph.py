from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from fedtrain.errors import ConfigError
from fedtrain.secagg.graph import Graph, _tail, default_neighbours, default_threshold, exposure

SEED = bytes(range(32))


@pytest.mark.parametrize(("members", "neighbours"), [(2, 1), (9, 8), (9, 4), (10, 2), (255, 254), (300, 110)])
def test_being_a_neighbour_is_mutual(members, neighbours):
    cohort = range(5, 5 + 2 * members, 2)
    graph = Graph(cohort, neighbours, SEED)
    neighbours_of = {client: graph.neighbours(client) for client in cohort}
    for client, mine in neighbours_of.items():
        assert len(mine) == neighbours
        assert list(mine) == sorted(set(mine) - {client})
        assert all(client in neighbours_of[other] for other in mine)
        assert graph.holders(client) == tuple(sorted((*mine, client)))


def test_the_order_follows_from_the_seed():
    one, same, other = (Graph(range(50), 6, seed) for seed in (SEED, SEED, bytes(32)))
    assert [one.holders(client) for client in range(50)] == [same.holders(client) for client in range(50)]
    assert [one.holders(client) for client in range(50)] != [other.holders(client) for client in range(50)]


def test_each_other_is_as_likely_a_neighbour():
    counts = np.zeros(20)
    for number in range(2000):
        counts[list(Graph(range(20), 4, number.to_bytes(32, "big")).neighbours(7))] += 1
    expected = 2000 * 4 / 19
    assert counts[7] == 0
    # 18 degrees of freedom: above 60 once in two million runs.
    assert ((np.delete(counts, 7) - expected) ** 2 / expected).sum() < 60


def test_a_sparse_graph_is_connected_without_fewer_than_k_members():
    graph = Graph(range(9), 4, SEED)
    for lost in combinations(range(9), 3):
        left = set(range(9)) - set(lost)
        reached, new = set(), {min(left)}
        while new:
            reached |= new
            new = {other for client in new for other in graph.neighbours(client)} & left - reached
        assert reached == left


@pytest.mark.parametrize(
    ("population", "marked", "drawn", "least"), [(10, 3, 4, 2), (7, 7, 3, 3), (8, 2, 5, 0), (6, 2, 3, 3)]
)
def test_tails_are_those_of_all_draws(population, marked, drawn, least):
    draws = list(combinations(range(population), drawn))
    hits = sum(len([place for place in draw if place < marked]) >= least for draw in draws)
    assert _tail(population, marked, drawn, least) == pytest.approx(float(Fraction(hits, len(draws))), abs=1e-15)


@pytest.mark.parametrize(
    ("members", "expected"), [(2, 1), (200, 199), (201, 86), (300, 110), (1000, 176), (10_000, 246)]
)
def test_the_default_is_the_least_number_that_protects(members, expected):
    assert default_neighbours(members) == expected
    if members > 200:
        for neighbours in (expected, expected - 2):
            threshold = default_threshold(neighbours)
            short = members * _tail(members - 1, 15 * members // 100, neighbours, neighbours + 2 - threshold)
            safe = exposure(members, neighbours, threshold) <= 2**-30 and short <= 2**-30
            assert safe == (neighbours == expected)


def test_a_cohort_beyond_what_shares_allow_is_refused():
    with pytest.raises(ConfigError, match="a cohort of 30000 is too large"):
        default_neighbours(30_000)


def test_exposure_falls_with_neighbours_and_with_the_threshold():
    assert exposure(500, 60, 41) > exposure(500, 100, 68) > exposure(500, 140, 94)
    assert exposure(500, 100, 60) > exposure(500, 100, 70)
