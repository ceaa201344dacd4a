"""Who takes part in a protected app, with which keys, and how its app is wrapped."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

import fedtrain.flower
from fedtrain.crypto import Identity
from fedtrain.errors import (
    ClientError,
    KeyFileError,
    StorageError,
    TransportError,
)
from fedtrain.flower import client_mods, protect_client, protect_grid
from fedtrain.trust import Roster
from tests.fakes import RUN_ID, InProcessGrid
from tests.unit.flower.protected import (
    CENTRAL,
    OPEN,
    SEALED,
    SIZE,
    SUMMED,
    World,
    model,
    plainly,
    request,
    start,
    train,
)


@pytest.fixture
def make_world(tmp_path):
    return lambda protection, **facts: World(folder=tmp_path, protection=protection, **facts)


def test_the_keys_of_a_session_are_gone_at_the_end(make_world):
    world = make_world(SUMMED)
    with world.protect():
        assert list((world.folder / "clients").glob("*/sessions/*/*/secret"))
    assert not list((world.folder / "clients").glob("*/sessions/*/*/secret"))


def test_a_client_that_does_not_say_that_it_deleted_its_keys_is_named(make_world, caplog, monkeypatch):
    monkeypatch.setattr("fedtrain.flower.grids.protected._FAREWELL", 0.3)
    world = make_world(SEALED)
    grid = world.protect()
    world.tamper = lambda message: None if message.metadata.dst_node_id == 101 else message
    assert grid.close() is None
    assert "clients [1] did not say" in caplog.text
    grid.close()


def test_too_few_clients_are_named(make_world):
    world = make_world(replace(SUMMED, clients=4))
    with pytest.raises(ClientError, match="3 of 4 clients say who they are, and the first start pins the keys of all"):
        world.protect(patience=0.2)
    world = make_world(CENTRAL)
    start(world)
    world.tamper = lambda message: None if message.metadata.dst_node_id == 101 else message
    with pytest.raises(ClientError, match="2 clients take part, and 3 are needed:\nnode 101: no answer"):
        world.protect(patience=0.2)


def test_without_a_session_too_few_are_named_too(make_world):
    world = make_world(OPEN, size=2)
    with pytest.raises(ClientError, match=r"2 clients take part, and 3 are needed$"):
        world.protect(patience=0.2)


def test_a_client_may_be_away_at_a_later_start(make_world):
    world = make_world(SUMMED)
    start(world)
    world.tamper = lambda message: None if message.metadata.dst_node_id == 101 else message
    with world.protect(patience=0.3) as grid:
        assert list(grid.get_node_ids()) == [100, 102]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (lambda _: 0, "nodes 100 and 101 both say that they are client 0"),
        (lambda node: node - 99, "node 102: .*the node config has partition-id = 3"),
        (lambda _: "0", "the node config has partition-id = '0'"),
    ],
)
def test_a_number_that_is_nobodys_is_refused(make_world, numbers, said):
    with pytest.raises(ClientError, match=said):
        make_world(SUMMED, numbers=numbers).protect(patience=0.2)


def test_a_server_with_fewer_clients_than_they_think_refuses_the_others(make_world):
    world = make_world(replace(SUMMED, clients=2), theirs=SUMMED)
    with pytest.raises(ClientError, match="node 102 says that it is client 2, and clients = 2"):
        world.protect()


def test_an_app_without_our_mods_is_told(make_world):
    world = make_world(SEALED)
    bare = ClientApp()

    @bare.query()
    def _(message, context):
        return Message(RecordDict({}), reply_to=message)

    world.app = bare
    with pytest.raises(ClientError, match="wrap its ClientApp with"):
        world.protect()


def test_two_clients_with_one_key_are_refused(make_world):
    world = make_world(SEALED)
    shared = Identity.generate()
    for client in range(SIZE):
        (world.folder / "clients" / f"client-{client}").mkdir(parents=True)
    for client in (0, 1):
        key = world.folder / "clients" / f"client-{client}" / "identity.pem"
        shared.save(key) if hasattr(shared, "save") else _write(shared, key)
    with pytest.raises(ClientError, match="cannot be pinned"):
        world.protect()


def _write(identity, path):
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path.write_bytes(identity._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)


def test_other_keys_than_those_pinned_are_refused(make_world):
    world = make_world(SUMMED)
    start(world)
    for client in (0, 1):
        (world.folder / "clients" / f"client-{client}" / "identity.pem").unlink()
    with pytest.raises(ClientError, match=r"1 clients take part, and 2 are needed"):
        world.protect()
    key = world.folder / "server" / "identity.pem"
    key.unlink()
    with pytest.raises(KeyFileError, match=r"identity\.pem is gone, the server's key"):
        world.protect()
    assert not key.exists()
    Identity.load_or_create(key)
    with pytest.raises(KeyFileError, match="names another key of the server"):
        world.protect()


def test_a_pinned_client_takes_part_with_the_roster_of_its_operator_alone(make_world):
    world = make_world(SUMMED)
    start(world)
    pinned = make_world(SUMMED, pinned=True)
    with pytest.raises(ClientError, match=r"client-0.roster\.json is missing"):
        pinned.protect()
    roster = Roster.read(world.folder / "server" / "roster.json")
    for client in range(SIZE):
        roster.write(world.folder / "clients" / f"client-{client}" / "roster.json")
    start(pinned)
    for name in ("identity.pem", "roster.json"):
        (world.folder / "server" / name).unlink()
    with pytest.raises(ClientError, match="the server names other identities than"):
        pinned.protect()


def test_a_folder_is_for_one_run_at_a_time(make_world, tmp_path):
    world = make_world(SEALED)
    with world.protect(), pytest.raises(StorageError, match="another run uses the folder"):
        world.protect()
    world.protect().close()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot use the folder"):
        protect_grid(world.grid, SEALED, folder=tmp_path / "file")


def test_names_are_public():
    for name in fedtrain.flower.__all__:
        assert getattr(fedtrain.flower, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = fedtrain.flower.other


def test_an_app_of_any_kind_is_wrapped_before_or_after_its_functions(tmp_path):
    visits, bare = [], ClientApp()
    app = protect_client(bare, OPEN, folder=tmp_path)

    @app.lifespan()
    def span(context):
        visits.append("begins")
        yield
        visits.append("ends")

    @app.evaluate("other")
    def _(message, context):
        raise AssertionError("not asked")

    @bare.train()
    def _(message, context):
        visits.append("trains")
        return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)

    InProcessGrid(lambda message: None, [])  # Flower's messages need to know who sends them
    context = Context(RUN_ID, 100, {"partition-id": 0}, RecordDict(), {})
    reply = app(request(), context)
    assert dict(reply.content["metrics"]) == {"num-examples": 1.0}
    assert visits == ["begins", "trains", "ends"]
    with pytest.raises(TransportError, match="results of this client alone"):
        app(request(kind="evaluate.other"), context)


def test_mods_alone_serve_an_app_that_answers_queries(make_world):
    world = make_world(SUMMED)
    world.app = ClientApp(mods=client_mods(SUMMED, folder=world.folder / "clients"))
    world.app.query()(lambda message, context: None)
    world.app.train()(
        lambda message, context: Message(train(context.node_config["partition-id"], message.content), reply_to=message)
    )
    result, _ = start(world)
    assert np.abs(result.arrays["bias"].numpy() - model()["bias"].numpy() - plainly([1, 1, 1])).max() < 1e-4
