import dataclasses
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from clients.app import app
from fedtrain.audit import audit
from fedtrain.clientapp import context
from fedtrain.clientapp.context import ClientContext, context_of, open_endpoint
from fedtrain.clientapp.policy import refuse_mode, refuse_task
from fedtrain.config import to_flat
from fedtrain.crypto import Identity
from fedtrain.data import open_store
from fedtrain.errors import BudgetError, KeyFileError, SiteError
from fedtrain.flower.messages import protocol
from fedtrain.ledger import Ledger
from fedtrain.machines import NODE
from fedtrain.privacy import SampledGaussian
from fedtrain.report import Report
from fedtrain.serverapp.run import run_experiment
from fedtrain.trust import Roster
from tests.fakes import NODES, RUN_ID, InProcessGrid, digits_experiment, private_experiment
from tests.federations import SITE, provisioned


@pytest.fixture
def machine(tmp_path):
    return provisioned(tmp_path, numbers=(3, 5)).nodes[1]


def flower_context(machine, experiment):
    return Context(RUN_ID, 17, {NODE: str(machine.path)}, RecordDict(), to_flat(experiment))


def on(machine, experiment):
    return ClientContext(experiment=experiment, client=5, node=machine)


def test_a_machine_of_its_own_knows_its_client_from_its_folder(machine, plain):
    assert context_of(flower_context(machine, plain)) == ClientContext(experiment=plain, client=5, node=machine)


def test_its_files_are_in_its_folder_whatever_the_experiment_says(machine, cache, tmp_path):
    experiment = private_experiment(cache, federation__sites=str(tmp_path / "elsewhere"))
    assert ClientContext(experiment=experiment, client=5, node=machine).folder == machine.path
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("missing", ["node.json", "federation.json"])
def test_a_folder_that_is_not_that_of_a_node_is_refused(machine, plain, missing):
    (machine.path / missing).unlink()
    with pytest.raises(SiteError, match="cannot read"):
        context_of(flower_context(machine, plain))


def test_a_machine_without_a_site_file_does_nothing(machine, private):
    machine.site.unlink()
    with pytest.raises(SiteError, match="cannot read the site file"):
        _ = ClientContext(experiment=private, client=5, node=machine).limits
    with pytest.raises(SiteError, match="cannot read the site file"):
        open_endpoint(flower_context(machine, private))


def test_a_machine_without_a_key_makes_none(machine, private):
    machine.identity.unlink()
    with pytest.raises(KeyFileError, match="there is no key file"):
        _ = ClientContext(experiment=private, client=5, node=machine).identity
    assert not machine.identity.exists()


@pytest.mark.parametrize(
    ("said", "insists"),
    [
        ("", (True, True)),
        ("[transport]\nsealed = false\n", (False, True)),
        ("[transport]\nsecagg = false\n", (True, False)),
        ("[transport]\nsealed = true\nsecagg = true\n", (True, True)),
    ],
)
@pytest.mark.parametrize("asked", [{}, {"transport__sealed": False, "transport__secagg__enabled": False}])
def test_a_machine_insists_on_sealed_messages_and_sums_unless_its_own_file_says_otherwise(
    machine, cache, said, insists, asked
):
    machine.site.write_text(SITE + said)
    endpoint = open_endpoint(flower_context(machine, digits_experiment(cache, **asked)))
    assert (endpoint.sealed, endpoint.secagg) == insists
    assert endpoint.node == machine


@pytest.mark.parametrize("mode", ["record", "client"])
def test_a_machine_does_not_train_with_noise_that_anybody_can_compute(machine, cache, tmp_path, mode):
    machine.site.write_text(SITE.replace('["secure"]', '["seeded", "secure"]'))
    settings = {"privacy__mode": mode, "privacy__delta": 1e-3}
    settings |= {"privacy__sampling_rate": 0.2} if mode == "record" else {"privacy__cohorts": "capped"}
    with pytest.raises(BudgetError, match=r'set privacy\.noise = "secure"'):
        refuse_mode(on(machine, digits_experiment(cache, **settings)))
    refuse_mode(on(machine, digits_experiment(cache, **settings, privacy__noise="secure")))
    refuse_mode(ClientContext(experiment=digits_experiment(cache, **settings), client=5))


def test_only_tasks_that_the_site_allows_are_trained(machine, cache):
    other = digits_experiment(cache, task__name="somewhere:build")
    refuse_task(on(machine, other))
    machine.site.write_text(SITE.replace("[policy]", '[policy]\ntasks = ["vision", "tabular"]'))
    refuse_task(on(machine, digits_experiment(cache)))
    with pytest.raises(BudgetError, match=r"does not train the task 'somewhere:build'.* vision, tabular"):
        refuse_task(on(machine, other))


@pytest.mark.parametrize("task", ["text", "language", "statistics"])
def test_each_task_needs_leave_by_its_own_name(task, machine, cache):
    once = {"federation__rounds": 1, "training__local_steps": 1, "privacy__sampling_rate": 1.0}
    asked = private_experiment(cache, task__name=task, **once)
    for others in ([], ["vision", "tabular", "speech", "regression", "multilabel"], [task.upper()], [f"{task}:build"]):
        machine.site.write_text(SITE.replace("[policy]", f"[policy]\ntasks = {others}"))
        with pytest.raises(BudgetError, match=f"does not train the task '{task}'"):
            refuse_task(on(machine, asked))
    machine.site.write_text(SITE.replace("[policy]", f'[policy]\ntasks = ["{task}"]'))
    refuse_task(on(machine, asked))


@pytest.fixture
def reads(monkeypatch):
    """How often TOML is parsed, a ledger is opened, a key file is read, and a request is digested."""
    counts = Counter()

    def counted(owner, name, what):
        function = getattr(owner, name)

        def call(*arguments, **keywords):
            counts[what] += 1
            return function(*arguments, **keywords)

        monkeypatch.setattr(owner, name, call)

    counted(tomllib, "loads", "parses")
    counted(context, "dataset_key", "data set keys")
    counted(Identity, "load", "identities")
    counted(Ledger, "open", "openings")
    counted(protocol, "request_digest", "digests")
    return counts


def test_a_site_file_a_ledger_and_keys_are_read_once_for_a_message(machine, cache, reads, tmp_path, request_of):
    digits = digits_experiment(cache)
    features, labels = open_store(digits.data, seed=0).train.features[:40], np.arange(40) % 10
    np.savez(machine.path / "records.npz", x=features, y=labels)
    machine.site.write_text(f"{SITE}[transport]\nsealed = false\nsecagg = false\n")
    settings = {
        "federation__sites": str(tmp_path / "elsewhere"),
        "privacy__noise": "secure",
        "data__classes": ",".join(map(str, range(10))),
    }
    experiment = private_experiment(cache, **settings)
    InProcessGrid(None, [])  # sets who this process is
    message = Message(request_of(experiment), 17, "train")
    reply = app(message, flower_context(machine, experiment))
    assert "arrays" in reply.content.array_records
    assert reads == {"parses": 1, "data set keys": 1, "identities": 1, "openings": 1, "digests": 1}


@pytest.mark.parametrize("sealed", [True, False])
def test_a_request_is_digested_once_for_the_mask_and_the_ledger(cache, reads, tmp_path, sealed):
    folder = {"output__directory": str(tmp_path / "run"), "output__screen": "none"}
    transport = {"transport__sealed": sealed, "transport__secagg__enabled": True}
    experiment = private_experiment(cache, **folder, **transport, federation__rounds=1, federation__cohort=3)
    digests = []

    def answer(message):
        before, node = reads["digests"], message.metadata.dst_node_id
        config = {"partition-id": NODES[node], "num-partitions": len(NODES)}
        reply = app(message, Context(RUN_ID, node, config, RecordDict(), to_flat(experiment)))
        if message.metadata.message_type == "train":
            digests.append(reads["digests"] - before)
        return reply

    run = run_experiment(InProcessGrid(answer, NODES), experiment)
    assert digests == [1, 1, 1]
    report = Report.model_validate_json((run / "report.json").read_text())
    assert audit(report, roster=Roster.read(run / "roster.json")).outcome == "simulation"


def test_a_digest_is_of_the_very_records_that_are_asked_about(plain):
    client = ClientContext(experiment=plain, client=0)
    arrays, settings = ArrayRecord({"w": Array(np.zeros(3))}), ConfigRecord({"lr": 0.1})
    others = [
        (ArrayRecord({"w": Array(np.ones(3))}), settings),
        (arrays, ConfigRecord({"lr": 0.2})),
        (ArrayRecord({"w": Array(np.zeros(3))}), settings),
    ]
    for asked in [(arrays, settings), *others, (arrays, settings)]:
        assert client.request_digest(*asked) == protocol.request_digest(*asked)


def test_the_next_message_reads_anew(machine, plain):
    InProcessGrid(None, [])
    message, seen = Message(RecordDict(), 17, "query"), []

    def answer(given, flower):
        seen.append(context_of(flower))
        assert context_of(flower) is seen[-1]
        assert context_of(flower_context(machine, plain)) is not seen[-1]
        return given

    for _ in range(2):
        context.share_context(message, flower_context(machine, plain), answer)
    assert seen[0] is not seen[1]


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


NAMED = '[site]\nname = "North"\n[budget]\nepsilon = 1.0\ndelta = 1e-3\n'


def test_a_name_is_that_of_a_clients_own_file_and_not_of_one_for_all(cache, tmp_path):
    experiment = private_experiment(cache, federation__sites=str(tmp_path))
    name_of = lambda client: ClientContext(experiment=experiment, client=client).name
    assert name_of(0) is None
    (tmp_path / "site.toml").write_text(NAMED)
    assert name_of(0) is None
    (tmp_path / "client-0001").mkdir()
    (tmp_path / "client-0001" / "site.toml").write_text(NAMED)
    assert (name_of(0), name_of(1)) == (None, "North")


def test_a_machine_of_its_own_has_the_name_in_its_file(machine, private):
    machine.site.write_text(NAMED)
    assert on(machine, private).name == "North"
