import pytest

from fedtrain.secagg.recovery import recover
from fedtrain.secagg.shamir import split
from tests.unit.secagg.federation import stream

SECRET = bytes(range(48))


def shares_of(threshold, holders, wrong=(), seed="shares"):
    random = stream(seed)
    shares = dict(enumerate(split(SECRET, threshold=threshold, holders=holders, random=random), start=1))
    return shares | {holder: random(len(SECRET)) for holder in wrong}


def recovered(shares, threshold, doubted=(), right=lambda secret: secret == SECRET, seed="recovery"):
    return recover(shares, threshold=threshold, doubted=doubted, right=right, random=stream(seed))


def test_a_secret_is_recovered_from_the_threshold():
    shares = shares_of(5, 9)
    few = {holder: shares[holder] for holder in (9, 2, 4, 5, 7)}
    found = recovered(few, 5)
    assert (found.secret, found.wrong) == (SECRET, frozenset())
    assert repr(found) == "Recovered(wrong=frozenset())"


@pytest.mark.parametrize("wrong", [(), (1,), (9,), (1, 2), (4, 9), (8, 9)])
@pytest.mark.parametrize("doubted", [(), (1,), (1, 2, 3, 4, 5)])
def test_wrong_shares_are_found(wrong, doubted):
    found = recovered(shares_of(5, 9, wrong), 5, doubted)
    assert (found.secret, found.wrong) == (SECRET, frozenset(wrong))


def test_beyond_half_of_the_surplus_it_takes_luck_and_nobody_is_accused():
    wrong = (1, 5, 9)
    tries = [recovered(shares_of(5, 9, wrong, f"shares {n}"), 5, seed=f"recovery {n}") for n in range(300)]
    lucky = [found for found in tries if found is not None]
    assert 0 < len(lucky) < 20
    for found in (*lucky, recovered(shares_of(5, 9, wrong), 5, doubted=wrong)):
        assert (found.secret, found.wrong) == (SECRET, frozenset())


def test_a_commitment_to_something_else_is_not_met():
    assert recovered(shares_of(5, 9), 5, right=lambda secret: False) is None
    assert recovered(shares_of(5, 5), 5, right=lambda secret: False) is None
