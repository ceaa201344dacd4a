"""Whole runs in this process between a server and machines of their own: real keys, files and records, no network."""

import json
import re
import traceback

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.app import Context, Error, RecordDict
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from clients.app import app
from fedtrain import __version__
from fedtrain.audit import audit
from fedtrain.config import from_flat, to_flat
from fedtrain.crypto import Identity
from fedtrain.errors import ClientError, ConfigError, KeyFileError, LedgerError, PrivacySpecError, RunError, SiteError
from fedtrain.ledger import Ledger
from fedtrain.machines import NODE, SERVER_VARIABLE, write_membership
from fedtrain.machines.following import follow
from fedtrain.report import Report
from fedtrain.serverapp.run import run_experiment
from fedtrain.status import FILE, Follower
from fedtrain.trust import Authority, Directions, Roster
from tests.fakes import RUN_ID, InProcessGrid
from tests.federations import ID, SITE, provisioned
from tests.unit.health.pki import authority

# Those of clients that left are not used again.
NUMBERS = (0, 2, 5)
NODES = {801: 2, 802: 0, 803: 1}
CLASSES = ",".join(map(str, range(10)))
PRIVATE = {
    "privacy.mode": "record",
    "privacy.noise": "secure",
    "privacy.epsilon": 4.0,
    "privacy.sampling_rate": 0.2,
    "privacy.delta": 1e-3,
}
CLIENT = {"privacy.mode": "client", "privacy.noise": "secure", "privacy.epsilon": 2.0, "privacy.delta": 1e-2}
OPEN = {"transport.sealed": False, "transport.secagg.enabled": False}


@pytest.fixture(scope="module")
def records():
    """Return the digits in four parts: of each client, and of the server."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)[:480]
    return [(images[part::4], digits.target[:480][part::4]) for part in range(4)]


@pytest.fixture
def made(request, tmp_path, records, monkeypatch):
    federation = provisioned(tmp_path, getattr(request, "param", NUMBERS))
    monkeypatch.setenv(SERVER_VARIABLE, str(federation.server.path))
    for node, (x, y) in zip(federation.nodes, records, strict=False):
        np.savez(node.path / "records.npz", x=x, y=y)
    np.savez(federation.server.path / "test.npz", x=records[3][0], y=records[3][1])
    return federation


@pytest.fixture
def run(made, tmp_path):
    """Give a function that runs an experiment with the members, and returns its report and its model."""

    def run(folder="run", *, answer=None, nodes=NODES, **settings):
        run.settings = fixed = {
            "federation.clients": len(NUMBERS),
            "federation.cohort": 3,
            "federation.rounds": 2,
            "federation.deadline": 3.0,
            "data.source": "npz",
            "data.test_path": str(made.server.path / "test.npz"),
            "data.classes": CLASSES,
            "data.cache": str(tmp_path / "cache"),
            "task.model": "linear",
            "training.batch_size": 24,
            "training.local_steps": 2,
            "device": "cpu",
            "output.directory": str(tmp_path / folder),
            "output.screen": "none",
        }
        experiment = from_flat(fixed | settings)

        def real(message):
            node = message.metadata.dst_node_id
            config = {NODE: str(made.nodes[nodes[node]].path)}
            try:
                return app(message, Context(RUN_ID, node, config, RecordDict(), to_flat(experiment)))
            except Exception:  # noqa: BLE001 - Flower replies with what a ClientApp raised, whatever it is
                return Error(1, traceback.format_exc())

        grid = InProcessGrid(real if answer is None else lambda message: answer(message, real), nodes)
        run_experiment(grid, experiment)
        report = Report.model_validate_json((tmp_path / folder / "report.json").read_text())
        return report, load_file(tmp_path / folder / "model-final.safetensors")

    return run


def entries(node):
    """Return what is charged in the ledgers of a node, by data set."""
    identity = Identity.load(node.identity)
    found = []
    for file in (node.path / "ledgers").glob("*.jsonl"):
        with Ledger.open(file.parent, dataset=file.stem, identity=identity) as ledger:
            found += ledger.entries
    return found


def test_a_private_run_is_sealed_and_summed_and_an_auditor_can_check_it(run, made, tmp_path):
    report, _ = run(**PRIVATE)
    assert report.status == "completed"
    assert [(entry.sealed, entry.secagg is not None) for entry in report.round_log] == [(True, True)] * 2
    assert all(sorted(entry.completed) == list(NUMBERS) for entry in report.round_log)
    assert report.data.histogram is None
    assert report.data.train_records is None
    verdict = audit(report, roster=Roster.read(tmp_path / "run" / "roster.json"))
    assert [(check.name, check.detail) for check in verdict.checks if check.status == "fails"] == []
    assert verdict.holds
    for node in made.nodes:
        assert [entry.status for entry in entries(node)] == ["reserved", "settled"] * 2
    # Who watches the run sees which version each member says it runs, and that it is at the address of its kit.
    begun = Follower(tmp_path / "run" / FILE).status().begun
    assert begun.software == dict.fromkeys(NUMBERS, __version__)
    assert begun.directions == dict.fromkeys(NUMBERS, 0)


def test_a_node_says_which_directions_of_the_operator_it_follows(run, made):
    certificate = authority("CA").certificate.public_bytes(Encoding.PEM).decode()
    directions = Directions(
        federation=ID, version=3, address="fl.example.org:9443", authorities=(Authority(certificate=certificate),)
    )
    follow(made.nodes[1], directions.sign(made.operator))
    report, _ = run()
    assert report.status == "completed"
    begun = Follower(made.path / "run" / FILE).status().begun
    assert begun.directions == {0: 0, 2: 3, 5: 0}


def test_before_the_session_nothing_is_sent_but_its_offer(run):
    seen = []

    def answer(message, real):
        seen.append(set(message.content))
        return real(message)

    run(**PRIVATE, answer=answer)
    assert seen[:3] == [{"fedtrain.session"}] * 3
    # All else is sealed, the questions about ledgers too.
    assert {frozenset(names) for names in seen[3:]} == {frozenset({"sealed", "body"})}


@pytest.mark.parametrize("made", [(0, 1, 2)], indirect=True)
def test_a_deployed_run_gives_the_model_of_the_simulated_one_bit_for_bit(run, made, tmp_path, records, monkeypatch):
    _, deployed = run()
    for node in made.nodes:
        node.site.write_text(SITE + "[transport]\nsealed = false\nsecagg = false\n")
    _, plain = run("plain", **OPEN)
    monkeypatch.delenv(SERVER_VARIABLE)
    x, y = (np.concatenate([part[which] for part in records[:3]]) for which in (0, 1))
    owner = np.repeat([0, 1, 2], [len(part[1]) for part in records[:3]])
    np.savez(tmp_path / "all.npz", x=x, y=y, owner=owner)
    together = {
        "data.path": str(tmp_path / "all.npz"),
        "data.partition.kind": "natural",
        "data.partition.column": "owner",
    }
    for layers, expected in (({"transport.sealed": True, "transport.secagg.enabled": True}, deployed), (OPEN, plain)):
        folder = f"simulated-{layers['transport.sealed']}"
        experiment = from_flat(run.settings | together | layers | {"output.directory": str(tmp_path / folder)})

        def answer(message, experiment=experiment):
            node = message.metadata.dst_node_id
            config = {"partition-id": NODES[node], "num-partitions": 3}
            return app(message, Context(RUN_ID, node, config, RecordDict(), to_flat(experiment)))

        run_experiment(InProcessGrid(answer, NODES), experiment)
        simulated = load_file(tmp_path / folder / "model-final.safetensors")
        assert {name: array.tobytes() for name, array in simulated.items()} == {
            name: array.tobytes() for name, array in expected.items()
        }


def test_client_privacy_with_secret_cohorts_reserves_the_run_in_the_session(run, made):
    for node in made.nodes:
        node.site.write_text(SITE + "[transport]\nsecagg = false\n")
    report, _ = run(**CLIENT, **{"transport.secagg.enabled": False})
    assert report.status == "completed"
    assert [len(entries(node)) for node in made.nodes] == [1, 1, 1]


def test_a_run_without_privacy_needs_a_site_that_allows_it(run, made):
    made.nodes[1].site.write_text(SITE.replace('"none", ', ""))
    report, _ = run()
    reasons = [drop.reason for entry in report.round_log for drop in entry.dropped]
    assert len(reasons) == 2
    assert all("client 2 does not train without privacy" in reason for reason in reasons)


@pytest.mark.parametrize("classes", ["9,8,7,6,5,4,3,2,1,0", CLASSES + ",10"])
def test_a_server_gets_no_fresh_ledger_by_other_names_of_the_classes(run, made, classes):
    run(**PRIVATE)
    ledgers = [sorted(node.path.glob("ledgers/*.jsonl")) for node in made.nodes]
    with pytest.raises(RunError, match=r"data\.classes of the experiment are not the classes in \[data\]"):
        run("again", **PRIVATE, **{"data.classes": classes})
    assert [sorted(node.path.glob("ledgers/*.jsonl")) for node in made.nodes] == ledgers


def test_a_site_that_names_no_classes_trains_nothing(run, made):
    site = made.nodes[1].site
    site.write_text(re.sub(r"classes = .*\n", "", SITE))
    report, _ = run()
    reasons = [drop.reason for entry in report.round_log for drop in entry.dropped]
    assert all("the site file names no classes" in reason for reason in reasons)


def test_another_number_of_members_than_clients_is_refused_before_there_is_a_run_folder(run, made, tmp_path):
    with pytest.raises(ConfigError, match=r"clients = 4, and the federation has 3 members \(node-0, node-2, node-5\)"):
        run(**{"federation.clients": 4})
    assert not (tmp_path / "run").exists()


def test_a_server_whose_key_is_not_the_one_of_the_membership_does_not_start(run, made):
    made.server.identity.unlink()
    Identity.load_or_create(made.server.identity)
    with pytest.raises(KeyFileError, match="names another key of the server"):
        run()


def test_a_membership_that_the_operator_did_not_sign_is_not_used(run, made):
    write_membership(made.server.membership, made.sign(version=2, signer=Identity.generate()))
    with pytest.raises(SiteError, match="signed with key"):
        run()


def test_seeded_noise_is_for_simulations(run):
    with pytest.raises(PrivacySpecError, match="is for simulations"):
        run(**(PRIVATE | {"privacy.noise": "seeded"}))


def test_too_few_members_end_the_run_with_their_names_and_reasons(run, made):
    made.nodes[2].site.unlink()
    with pytest.raises(ClientError) as caught:
        run()
    text = str(caught.value)
    assert text.startswith("2 members take part, and federation.cohort = 3:\nclient 5, node-5, is not in the session\n")
    assert "node 801: cannot read the site file" in text


def test_a_run_goes_on_without_those_who_are_away(run):
    report, _ = run(nodes={801: 2, 803: 1}, **{"federation.cohort": 2}, **PRIVATE)
    assert {client for entry in report.round_log for client in entry.completed} == {2, 5}


def test_nobody_but_the_holder_of_a_key_is_that_client(run, made):
    """A registered node with the kit of another, or with a key that is not a member's, is not in the session."""
    Identity.load_or_create(made.path / "thief.pem")
    (made.path / "thief.pem").replace(made.nodes[2].identity)
    with pytest.raises(ClientError, match="does not hold the key of client-5"):
        run()


def test_a_client_whose_key_is_on_two_nodes_takes_no_part(run):
    with pytest.raises(ClientError, match="2 nodes hold the key of client 2: stop all but one"):
        run(nodes={**NODES, 804: NODES[803]})


def test_a_node_that_was_revoked_takes_no_part_and_the_others_learn_of_it(run, made):
    write_membership(made.server.membership, made.sign(version=2, left_out=["node-5"]))
    report, _ = run(**PRIVATE, **{"federation.clients": 2, "federation.cohort": 2})
    assert {client for entry in report.round_log for client in entry.completed} == {0, 2}
    # A server that goes back to the membership before is refused by those who have seen the new one.
    write_membership(made.server.membership, made.sign(version=1))
    with pytest.raises(ClientError, match=r"version 1 of the membership, and client-0 has seen version 2"):
        run("later", **PRIVATE)


def test_a_run_is_not_resumed_with_other_members(run, made):
    report, _ = run(**PRIVATE)
    assert report.rounds == 2
    write_membership(made.server.membership, made.sign(version=2, left_out=["node-5"]))
    with pytest.raises((LedgerError, ConfigError)):
        run(**PRIVATE, **{"output.resume": True, "federation.clients": 2, "federation.cohort": 2})


def test_a_run_is_not_resumed_when_a_node_has_other_keys(run, made):
    run(**PRIVATE)
    made.nodes[1].identity.unlink()
    Identity.load_or_create(made.nodes[1].identity)
    write_membership(made.server.membership, made.sign(version=2))
    with pytest.raises(LedgerError, match="was begun with other members or keys than the federation has now"):
        run(**PRIVATE, **{"output.resume": True})


def test_a_run_is_resumed_in_another_session(run, made):
    def failing(message, real):
        answer = real(message)
        if failing.asked >= 3 and message.metadata.message_type == "train":
            return Error(1, "gone")
        failing.asked += message.metadata.message_type == "train"
        return answer

    failing.asked = 0
    settings = {**PRIVATE, "privacy.max_participations": 3}
    with pytest.raises(RunError, match="round 2"):
        run(**settings, answer=failing)
    report, _ = run(**settings, **{"output.resume": True})
    assert report.status == "completed"
    # What was lost is charged, and the repetition too: with secure noise it is another release.
    for node in made.nodes:
        assert len([entry for entry in entries(node) if entry.status == "reserved"]) == 3


def test_what_a_record_says_does_not_leave_the_machine(run, made):
    x = np.zeros((3, 8, 8), dtype=np.uint8)
    np.savez(made.nodes[0].path / "records.npz", x=x, y=np.array(["patient Quux", "1", "2"]))
    report, _ = run()
    told = json.dumps(report.model_dump(mode="json"))
    assert "Quux" not in told
    assert "Quux" in (made.nodes[0].path / "errors.log").read_text()
