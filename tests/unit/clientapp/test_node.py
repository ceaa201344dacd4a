import dataclasses
from pathlib import Path

import pytest

from fedtrain.clientapp.context import ClientContext
from fedtrain.errors import KeyFileError, SiteError
from fedtrain.privacy import SampledGaussian

EVENT = SampledGaussian(sampling_rate=0.5, noise_multiplier=2.0, steps=1)
BUDGET = "[budget]\nepsilon = {}\ndelta = 1e-6\n"


def test_keys_are_made_once_and_differ_between_clients(private):
    first, other = ClientContext(experiment=private, client=0), ClientContext(experiment=private, client=1)
    assert ClientContext(experiment=private, client=0).identity.public == first.identity.public != other.identity.public
    assert (first.folder / "identity.pem").stat().st_mode & 0o777 == 0o600


def test_without_a_site_file_the_budget_is_that_of_the_experiment(private):
    policy = ClientContext(experiment=private, client=0).limits
    assert (policy.epsilon, policy.delta, policy.minimum_noise) == (2.0, 1e-3, 0.0)


def test_a_clients_own_site_file_goes_before_that_of_all(private):
    sites = Path(private.federation.sites)
    (sites / "client-0001").mkdir(parents=True)
    (sites / "site.toml").write_text(BUDGET.format(5))
    (sites / "client-0001" / "site.toml").write_text(BUDGET.format(7))
    assert [ClientContext(experiment=private, client=client).limits.epsilon for client in (0, 1)] == [5, 7]


def test_a_site_file_that_cannot_be_used_stops_the_client(private):
    sites = Path(private.federation.sites)
    sites.mkdir()
    (sites / "site.toml").write_text("[budget]\nepsilom = 3\n")
    with pytest.raises(SiteError, match="epsilom"):
        _ = ClientContext(experiment=private, client=0).limits


def test_a_key_that_others_can_read_stops_the_client(private):
    one = ClientContext(experiment=private, client=0)
    assert one.identity
    (one.folder / "identity.pem").chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        _ = ClientContext(experiment=private, client=0).identity


def test_a_lost_data_set_key_stops_the_client_that_has_ledgers(private, node):
    records, one = node(private, 0).site.records(0), ClientContext(experiment=private, client=0)
    with one.open_ledger(one.dataset_of(records)) as ledger:
        ledger.reserve(
            run="r",
            round_number=1,
            plan="a" * 64,
            model="b" * 64,
            event=EVENT,
            repeatable=True,
            unit="record",
            noise="seeded",
        )
    (one.folder / "dataset.key").unlink()
    with pytest.raises(KeyFileError, match=r"dataset.key is gone, and with a new one every data set would have"):
        ClientContext(experiment=private, client=0).dataset_of(records)


def test_a_ledger_belongs_to_the_records_and_not_to_their_order(private, node):
    records, one = node(private, 0).site.records(0), ClientContext(experiment=private, client=0)
    turned = dataclasses.replace(records, features=records.features.flip(0), targets=records.targets.flip(0))
    fewer = dataclasses.replace(records, features=records.features[1:], targets=records.targets[1:])
    for data in (records, turned, fewer):
        with one.open_ledger(one.dataset_of(data)):
            pass
    # A ledger that was opened holds a lock file under the name of its data set.
    assert len({path.stem for path in (one.folder / "ledgers").iterdir()}) == 2
