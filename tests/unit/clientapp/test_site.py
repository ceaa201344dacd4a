import numpy as np
import pytest
import torch

from fedtrain.clientapp.policy import checked_plan
from fedtrain.clientapp.site import open_site
from fedtrain.config import to_flat
from fedtrain.data import Partitions
from fedtrain.errors import ClientError, ConfigError, PrivacySpecError
from fedtrain.serverapp.preparation import prepare


def test_a_site_is_opened_once_in_a_process(plain, private):
    first = open_site(to_flat(plain))
    assert open_site(dict(reversed(to_flat(plain).items()))) is first
    assert first.experiment == plain
    assert open_site(to_flat(private)) is not first


def test_clients_and_server_split_the_data_in_the_same_way(plain):
    site, preparation = open_site(to_flat(plain)), prepare(plain)
    for client in range(4):
        labels = site.records(client).targets
        assert torch.bincount(labels, minlength=10).tolist() == preparation.histogram[client].tolist()
    assert site.model.state_dict().keys() == preparation.model.state_dict().keys()


def test_records_are_copies(plain):
    site = open_site(to_flat(plain))
    records = site.records(0)
    before = records.features.clone()
    records.features.zero_()
    assert torch.equal(site.records(0).features, before)


def test_a_client_without_records(plain):
    site = open_site(to_flat(plain))
    empty = Partitions(offsets=np.array([0, 0, 4]), rows=np.arange(4))
    bare = type(site)(**(vars(site) | {"partitions": empty}))
    with pytest.raises(ClientError, match="client 0 has no records"):
        bare.records(0)
    assert len(bare.records(1)) == 4


def test_a_run_config_that_is_none(plain):
    with pytest.raises(ConfigError, match=r"unknown key federation.client .*did you mean federation.clients"):
        open_site(to_flat(plain) | {"federation.client": 3})


def test_a_plan_is_the_servers_and_is_checked(private):
    plan = prepare(private).plan
    assert checked_plan(private, plan.noise_multiplier) == plan
    assert checked_plan(private, 50.0).noise_multiplier == 50.0
    with pytest.raises(PrivacySpecError, match="spends epsilon"):
        checked_plan(private, plan.noise_multiplier * 0.9)
