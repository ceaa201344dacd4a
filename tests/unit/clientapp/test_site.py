from dataclasses import replace

import numpy as np
import pytest
import torch

from fedtrain.clientapp.context import ClientContext
from fedtrain.clientapp.policy import checked_plan
from fedtrain.clientapp.site import open_site, site_of
from fedtrain.config import from_flat, to_flat
from fedtrain.crypto import Identity
from fedtrain.data import Partitions
from fedtrain.data.schema import read_schema
from fedtrain.errors import ClientError, ConfigError, PrivacySpecError, SiteError, TaskError
from fedtrain.machines import Federation, NodeFolder
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


@pytest.fixture
def machine(tmp_path):
    """Give a client on a machine of its own, whose images are in an archive, of an experiment with an encoder."""
    images = np.random.default_rng(0).integers(256, size=(5, 12, 8), dtype=np.uint8)
    np.savez(tmp_path / "records.npz", x=images, y=np.array(["a", "b", "a", "b", "a"]))
    (tmp_path / "site.toml").write_text(
        '[budget]\nepsilon = 1.0\ndelta = 1e-5\n[data]\nsource = "npz"\npath = "records.npz"\nclasses = "a, b"\n'
    )
    flat = {"data.source": "npz", "data.test_path": "test.npz", "data.classes": "a, b", "task.encoder": "scattering"}

    federation = Federation(id="0" * 32, address="localhost:1", operator=Identity.generate().public)

    def client(digest=""):
        experiment = from_flat({**flat, "task.encoder_digest": digest})
        node = NodeFolder(path=tmp_path, name="site", client=0, federation=federation)
        return ClientContext(experiment=experiment, client=0, node=node)

    return client


def test_a_site_refuses_an_experiment_of_another_rate_or_length_of_sounds(tmp_path):
    (tmp_path / "site.toml").write_text(
        '[budget]\nepsilon = 1.0\ndelta = 1e-5\n[data]\nsource = "sounds"\npath = "said"\nclasses = "a, b"\n'
        "sample_rate = 8000\nseconds = 1.0\n"
    )
    federation = Federation(id="0" * 32, address="localhost:1", operator=Identity.generate().public)
    node = NodeFolder(path=tmp_path, name="site", client=0, federation=federation)
    flat = {"data.source": "sounds", "data.test_path": "x", "data.classes": "a, b", "task.name": "speech"}
    for changed in ({"data.sample_rate": 16_000, "data.seconds": 1.0}, {"data.sample_rate": 8000, "data.seconds": 2.0}):
        experiment = from_flat(flat | changed)
        with pytest.raises(SiteError, match=r"data.sample_rate and data.seconds of the experiment are not those"):
            site_of(ClientContext(experiment=experiment, client=0, node=node))


def test_a_machine_of_its_own_keeps_features_to_itself_and_its_ledger_to_the_stored_records(machine, tmp_path):
    with pytest.raises(TaskError, match="the digest here is") as caught:
        site_of(machine())
    digest = str(caught.value).split('"')[-2]
    site = site_of(machine(digest))
    assert site.inputs(0).features.shape == (5, 81, 3, 2)
    assert site.records(0).features.shape == (5, 1, 12, 8)
    assert site.info == replace(site.info, features=site.encoder.info.features)
    assert list((tmp_path / "cache").glob("features-*"))
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    with pytest.raises(TaskError, match="another encoder than the experiment declares"):
        site_of(machine("0" * 64))


@pytest.fixture
def table(tmp_path):
    """Give a client on a machine of its own, whose records are a table by a schema file."""
    schema = (
        '[columns]\na = { kind = "number", lower = 0, upper = 4 }\nlabel = { kind = "target", values = ["n", "y"] }\n'
    )
    (tmp_path / "schema.toml").write_text(schema)
    (tmp_path / "records.csv").write_text("a,label\n0,n\n1,y\n")
    budget = "[budget]\nepsilon = 1.0\ndelta = 1e-5\n"
    own = 'source = "csv"\npath = "records.csv"\nschema_file = "schema.toml"\n'
    federation = Federation(id="0" * 32, address="localhost:1", operator=Identity.generate().public)

    def client(*, own=own, **data):
        (tmp_path / "site.toml").write_text(f"{budget}[data]\n{own}")
        flat = {"data.source": "csv", "data.test_path": "test.csv", "task.name": "tabular"}
        experiment = from_flat({**flat, **{f"data.{name}": value for name, value in data.items()}})
        node = NodeFolder(path=tmp_path, name="site", client=0, federation=federation)
        return ClientContext(experiment=experiment, client=0, node=node)

    return client


def of(digest):
    return {"schema_file": "on/the/server.toml", "schema_digest": digest}


def test_a_site_refuses_an_experiment_by_another_schema_before_it_reads_a_record(table, tmp_path):
    digest = read_schema(tmp_path / "schema.toml").digest
    # The file that the server names is on its own machine.
    site = site_of(table(**of(digest)))
    assert site.records(0).features.tolist() == [[-1.0], [-0.5]]
    assert site.info.features.schema == digest
    (tmp_path / "records.csv").unlink()
    for wrong in (of("0" * 64), {"source": "npz", "classes": "n, y"}):
        with pytest.raises(
            SiteError, match=r"data.schema_digest of the experiment is not the digest of the site's schema"
        ):
            site_of(table(**wrong))
    (tmp_path / "schema.toml").write_text((tmp_path / "schema.toml").read_text().replace("upper = 4", "upper = 5"))
    with pytest.raises(SiteError, match=r"is not the digest of the site's schema file"):
        site_of(table(**of(digest)))  # the very experiment whose site this process has opened
    with pytest.raises(SiteError, match=r"the experiment has a schema file, and the site file names none"):
        site_of(table(own='source = "npz"\npath = "records.npz"\nclasses = "n, y"\n', **of(digest)))
