"""Who shares masks with whom: all with all in a cohort of up to 200, and beyond it a sparse random graph.

The sparse graph is a Harary graph on a random order of the cohort (Bell et al., CCS 2020, section 3.1): each member is
the neighbour of the k / 2 before and after it in a circle. The order follows from public values, so that each computes
it alone. How large k is follows from exact tails of the hypergeometric distribution, since the neighbours of a member
are k others drawn at random, and a union bound over all members.

These probabilities are for a server that follows the protocol and looks at what it gets (honest but curious). The
values that decide the order are the announcements, the session and the number of the round, and the server chooses the
last two: one that does not follow the protocol can try many of them, and begin the round whose order suits it. In a
cohort of 300 with 10% colluding, where a client has 11 colluders among its 110 neighbours on average and 37 would
expose it, the best of 3,000 round numbers gave a chosen client 19. A complete graph has no order to choose.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from math import comb

from fedtrain.errors import ConfigError
from fedtrain.secagg.shamir import MOST_HOLDERS

LARGEST_COMPLETE = 200
"""Beyond this cohort the work for a complete graph, which grows with its cube, is worth avoiding."""

_COLLUDING = (1, 10)
_LOST = (15, 100)
_FAILURE = 2.0**-30
_ORDER = b"fedtrain secagg order v1\n"


class Graph:
    """The neighbours in a cohort."""

    def __init__(self, cohort: Sequence[int], neighbours: int, seed: bytes) -> None:
        """Arrange the cohort.

        Args:
            cohort: its clients, in increasing order.
            neighbours: how many each has: even, or all others.
            seed: 32 public bytes.
        """
        self._cohort = tuple(cohort)
        self._reach = neighbours // 2
        self._complete = neighbours == len(cohort) - 1
        # Where all share with all, the order says nothing.
        arranged = () if self._complete else cohort
        self._circle = sorted(arranged, key=lambda client: sha256(_ORDER + seed + client.to_bytes(8, "big")).digest())
        self._place = {client: place for place, client in enumerate(self._circle)}

    def holders(self, client: int) -> tuple[int, ...]:
        """Return the holders of a client's secrets, in increasing order: its neighbours and the client itself."""
        if self._complete:
            return self._cohort
        place, size = self._place[client], len(self._circle)
        around = range(place - self._reach, place + self._reach + 1)
        return tuple(sorted(self._circle[other % size] for other in around))

    def neighbours(self, client: int) -> tuple[int, ...]:
        """Return the clients that a client shares masks with, in increasing order."""
        return tuple(other for other in self.holders(client) if other != client)


def default_threshold(neighbours: int) -> int:
    """Return two thirds of the holders, rounded up, which is the least that is allowed.

    So many are reached twice, for two claims about one client, only with a third of the holders colluding or more.
    """
    return -(-2 * (neighbours + 1) // 3)


@lru_cache(maxsize=64)
def default_neighbours(members: int) -> int:
    """Return how many neighbours each member has unless something else is configured.

    All others up to a cohort of 200. Beyond it, the least even number with which, at the default threshold, each of two
    failures has a probability of at most 2^-30 over the whole cohort: that where 10% collude a secret is exposed (see
    `exposure`), and that where 15% are lost at random a survivor's secrets cannot be recovered. That is 110 of a
    cohort of 300, 176 of 1000, and 246 of 10,000.

    Raises:
        ConfigError: it would be more than 254, the most that there can be shares for.
    """
    if members <= LARGEST_COMPLETE:
        return members - 1
    lost = members * _LOST[0] // _LOST[1]
    for neighbours in range(2, MOST_HOLDERS, 2):
        threshold = default_threshold(neighbours)
        short = members * _tail(members - 1, lost, neighbours, neighbours + 2 - threshold)
        if short <= _FAILURE and exposure(members, neighbours, threshold) <= _FAILURE:
            return neighbours
    raise ConfigError(
        f"a cohort of {members} is too large for secure aggregation: each member would need more than "
        f"{MOST_HOLDERS - 1} neighbours; take a smaller cohort"
    )


def check_graph(members: int, neighbours: int, threshold: int) -> None:
    """Check that a graph exists, and that it and the threshold protect as stated.

    Raises:
        ConfigError: it does not, with what is allowed.
    """
    where = f"{neighbours} neighbours in a cohort of {members}"
    if members <= LARGEST_COMPLETE and neighbours != members - 1:
        raise ConfigError(
            f"{where} would let a server that lies about who dropped out learn more than one sum: in a cohort of up to "
            f"{LARGEST_COMPLETE} each shares masks with all {members - 1} others; leave the neighbours unset"
        )
    most = min(members, MOST_HOLDERS) - 1
    if not 1 <= neighbours <= most or (neighbours % 2 and neighbours != members - 1):
        raise ConfigError(
            f"{where} cannot be arranged: transport.secagg.neighbours can be an even number from 2 to {most}"
            + (f", or all {members - 1} others" if members <= MOST_HOLDERS else "")
        )
    holders, least = neighbours + 1, default_threshold(neighbours)
    if not least <= threshold <= holders:
        allowed = f"transport.secagg.threshold can be {least} to {holders}, or unset for {least}"
        why = (
            "with fewer than two thirds of the holders a server and few colluding clients could unmask a single update"
            if threshold < least
            else "no secret has more shares than holders"
        )
        raise ConfigError(
            f"a threshold of {threshold} cannot be used where a secret has {holders} holders: {why}; {allowed}"
        )
    if neighbours < members - 1 and exposure(members, neighbours, threshold) > _FAILURE:
        raise ConfigError(
            f"{where} with a threshold of {threshold} are too few: with 10% of the cohort colluding a secret would be "
            f"exposed with a probability of more than 2^-30; the default is {default_neighbours(members)} neighbours "
            f"and a threshold of {default_threshold(default_neighbours(members))}"
        )


def exposure(members: int, neighbours: int, threshold: int) -> float:
    """Return a bound on the probability that someone's secret is exposed where 10% of the cohort collude.

    Two things expose: so many colluders among a client's holders that they and two disjoint parts of the others reach
    the threshold twice; and k / 2 members in a row that collude or (15%) are lost, without which the sum over a cohort
    cannot fall apart into sums over parts of it.

    Args:
        members: size of the cohort.
        neighbours: how many each has.
        threshold: how many shares a secret takes.
    """
    colluding, lost = (members * share // whole for share, whole in (_COLLUDING, _LOST))
    twice = _tail(members - 1, colluding, neighbours, 2 * threshold - neighbours - 1)
    row = _tail(members, colluding + lost, neighbours // 2, neighbours // 2)
    return members * (twice + row)


def _tail(population: int, marked: int, drawn: int, least: int) -> float:
    """Return the probability that at least so many of those drawn without replacement are marked."""
    most = min(marked, drawn)
    ways = sum(comb(marked, i) * comb(population - marked, drawn - i) for i in range(max(least, 0), most + 1))
    return ways / comb(population, drawn)
