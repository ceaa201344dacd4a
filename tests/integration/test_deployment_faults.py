"""What goes wrong in a deployment leaves the right model or a clear error, and no ledger that counts too little."""

import shutil
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from safetensors.numpy import load

from fedtrain.cli.provision import Desk
from fedtrain.deployment import ServerFolder
from fedtrain.provision.certificates import Pair, issue
from tests.integration.deployed import SERVER, SITES, Deployment, await_that, up

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None, reason="nginx is not installed"
    ),
]
A, B, C = SITES
ROUNDS = 2


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    with Deployment(tmp_path_factory.mktemp("deployment")) as made:
        made.serve()
        made.connect()
        yield made


@pytest.fixture(autouse=True)
def budgets(request, deployment):
    """Give every test ledgers of its own, and see afterwards that all nodes are in service."""
    for site in SITES:
        shutil.rmtree(deployment.node(site) / "ledgers", ignore_errors=True)
    yield
    for site in deployment.members:
        if (site, up(site)) not in deployment.hosts._staying:
            deployment.connect(site)


def holds(deployment, out):
    audit = deployment.audit(out)
    assert audit.returncode == 0, audit.stdout
    return True


def spent_at_least(deployment, out):
    """Say whether each ledger has every charge that the server's record has of its client, or more."""
    rounds = deployment.report(out)["round_log"]
    for number, site in enumerate(SITES):
        took_part = sum(number in entry["completed"] for entry in rounds)
        assert deployment.charged(site) >= took_part
    return True


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_client_that_is_killed_is_left_out_of_the_round_and_gets_work_again(deployment, moment):
    out = f"killed-{moment}"
    lines = {"before": 0, "during": 1, "after": 2}[moment]
    run = deployment.begin(out, "federation.rounds=3")
    log = deployment.node(B) / "logs" / "supernode.log"
    start = len(log.read_bytes())
    if moment == "before":
        await_that(lambda: b"Receiving: train message" in log.read_bytes()[start:], "the client is asked to train")
    else:
        await_that(lambda: deployment.lines(B) >= lines, f"its ledger has {lines} entries")
    deployment.kill_node(B)
    charged = deployment.charged(B)
    time.sleep(2)
    deployment.connect(B)
    status, said = deployment.finish(run)
    assert status == 0, said
    log = deployment.report(out)["round_log"]
    assert [sorted(entry["completed"]) for entry in log][-1] == [0, 1, 2]
    assert 1 in {drop["client"] for drop in log[0]["dropped"]} | set(log[0]["completed"])
    assert deployment.charged(B) >= max(charged, sum(1 in entry["completed"] for entry in log))
    assert holds(deployment, out)


def test_a_client_that_never_answers_is_not_waited_for_longer_than_the_deadline(deployment):
    run = deployment.begin("silent", "federation.deadline=20.0")
    await_that(lambda: deployment.lines(C) >= 1, "the client has begun")
    deployment.kill("flwr-clientapp|superexec|flower.supernode", deployment.node(C), signal.SIGSTOP)
    status, said = deployment.finish(run)
    deployment.kill("flwr-clientapp|superexec|flower.supernode", deployment.node(C), signal.SIGCONT)
    assert status == 0, said
    first = deployment.report("silent")["round_log"][0]
    assert sorted(first["completed"]) == [0, 1]
    assert [drop["client"] for drop in first["dropped"]] == [2]
    assert deployment.charged(C) >= 1
    assert holds(deployment, "silent")
    deployment.kill_node(C)


def test_a_link_that_is_cut_and_mended_carries_the_run_on(deployment):
    if not deployment.namespaces:
        pytest.skip("network namespaces are not permitted here")
    run = deployment.begin("cut")
    await_that(lambda: deployment.lines(A) >= 1, "the client has begun")
    deployment.hosts.cut(A)
    time.sleep(25)
    deployment.hosts.mend(A)
    status, said = deployment.finish(run)
    assert status == 0, said
    log = deployment.report("cut")["round_log"]
    assert len(log) == ROUNDS
    assert all({1, 2} <= set(entry["completed"]) for entry in log)
    assert spent_at_least(deployment, "cut")
    assert holds(deployment, "cut")


@pytest.mark.parametrize("when", ["between", "within"])
def test_a_server_app_that_is_killed_leaves_a_run_that_goes_on(deployment, when):
    out = f"server-app-{when}"
    run = deployment.begin(out)
    checkpoint = deployment.server / "runs" / out / "checkpoints" / "round-000001.safetensors"
    if when == "between":
        await_that(checkpoint.exists, "the first round is complete")
    else:
        await_that(lambda: deployment.lines(A) >= 1, "the first round has begun")
    assert deployment.kill("flwr-serverapp", deployment.server) > 0
    status, said = deployment.finish(run)
    assert status == 1, said
    status, said = deployment.run(out, resume=True)
    assert status == 0, said
    assert deployment.report(out)["status"] == "completed"
    assert all(deployment.charged(site) >= ROUNDS for site in SITES)
    assert holds(deployment, out)


def test_a_superlink_that_is_killed_is_started_again_and_the_run_completes(deployment):
    run = deployment.begin("superlink")
    await_that(lambda: deployment.lines(A) >= 1, "the first round has begun")
    assert deployment.kill("flower-superlink", deployment.server) > 0
    status, said = deployment.finish(run)
    assert status == 0, said
    assert deployment.report("superlink")["status"] == "completed"
    assert holds(deployment, "superlink")


def test_a_client_whose_disk_is_full_does_not_train_and_says_so(deployment):
    ledgers = deployment.node(A) / "ledgers"
    ledgers.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", ledgers], check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        deployment.hosts.stop(A, up(A))  # a node sees what is mounted when it is started
        deployment.connect(A)
        filler = f"head -c 1M /dev/zero > {ledgers}/filler"
        assert deployment.hosts.run(A, filler).returncode == 1
        status, said = deployment.run("full")
        assert status == 0, said
        dropped = [drop for entry in deployment.report("full")["round_log"] for drop in entry["dropped"]]
        assert {drop["client"] for drop in dropped} == {0}
        assert all("No space left on device" in drop["reason"] for drop in dropped)
        assert deployment.charged(A) == 0
    finally:
        deployment.hosts.stop(A, up(A))
        subprocess.run(["umount", ledgers], check=True)


def test_a_bundle_that_no_site_approved_does_not_run(deployment):
    for site in SITES:
        approved = deployment.node(site) / "approved.json"
        approved.rename(approved.with_suffix(".kept"))
    try:
        for site in SITES:  # a node that has run a bundle holds it
            deployment.hosts.stop(site, up(site))
        time.sleep(5)
        deployment.connect()
        status, said = deployment.run("unapproved")
        assert status == 1
        assert "has not approved the bundle" in said
        assert all(deployment.charged(site) == 0 for site in SITES)
    finally:
        for site in SITES:
            (deployment.node(site) / "approved.kept").rename(deployment.node(site) / "approved.json")


def test_without_privacy_noise_the_model_is_the_simulated_one_bit_for_bit(deployment):
    for site in SITES:
        deployment.edit_site(site, ('modes = ["record"]', 'modes = ["none", "record"]'))
    plain = [
        "privacy.mode=none",
        "privacy.noise=seeded",
        'privacy.sampling_rate=""',
        'privacy.max_participations=""',
        "training.learning_rate=0.5",
    ]
    status, said = deployment.run("plain", *plain)
    assert status == 0, said
    operator = deployment.hosts.home("operator")
    sites = operator / "sites"
    sites.mkdir()
    for site in SITES:
        shutil.copy(operator / f"{site}.parquet", sites)
    settings = [
        *plain,
        "federation.rounds=2",
        "data.path=sites",
        "data.partition.kind=natural",
        "data.partition.column=site",
        "transport.sealed=true",
        "transport.secagg.enabled=true",
    ]
    words = " ".join(f"--set '{setting}'" for setting in settings)
    line = f"fedtrain simulate --config fedtrain/simulations/deployed.toml {words} --out ../simulated fedtrain"
    simulated = deployment.hosts.run("operator", line)
    assert simulated.returncode == 0, simulated.stdout
    mine = load((deployment.hosts.folder / "simulated" / "model-final.safetensors").read_bytes())
    theirs = load(deployment.model("plain"))
    assert {name: array.tobytes() for name, array in mine.items()} == {
        name: array.tobytes() for name, array in theirs.items()
    }
    assert all(np.isfinite(array).all() for array in mine.values())


def refused(deployment, site, line, reason):
    """Say whether a node that is started says why it does not connect."""
    deployment.hosts.stay(site, line, "trying again")
    try:
        deployment.hosts.await_line(site, line, reason, seconds=60)
    finally:
        deployment.hosts.stop(site, line)
    return True


def copied(deployment, site, name):
    """Copy the folder of a node on its host."""
    folder = deployment.hosts.home(site) / name
    shutil.copytree(deployment.node(site), folder, ignore=shutil.ignore_patterns("run", "logs", ".running", "ledgers"))
    return folder


def test_a_stolen_kit_without_a_key_connects_to_nothing(deployment):
    folder = deployment.hosts.home("auditor") / "stolen"
    shutil.copytree(deployment.hosts.home("operator") / "federation" / "kits" / A, folder)
    missing = deployment.hosts.run("auditor", "fedtrain client up stolen")
    assert missing.returncode == 2
    assert "there is no key" in missing.stdout
    assert deployment.hosts.run("auditor", "fedtrain client init stolen").returncode == 0
    assert refused(deployment, "auditor", "fedtrain client up stolen", "does not know the SuperNode key")


def test_another_ca_an_expired_certificate_and_a_wrong_clock_are_told_apart(deployment):
    other = copied(deployment, A, "other-ca")
    deployment.hosts.stop(A, up(A))
    desk = Desk.create(
        deployment.hosts.folder / "another", address="x.example:1", names=(), days=9, now=datetime.now(UTC)
    )
    shutil.copy(desk.path / "ca.pem", other / "ca.pem")
    assert refused(deployment, A, "fedtrain client up other-ca", "wrong CA")
    if shutil.which("faketime"):
        line = "faketime -f +1h fedtrain client up hospital-a"
        assert refused(deployment, A, line, "clock")
        # It does not pass the signal on.
        deployment.kill("fedtrain client up", deployment.hosts.home(A))


def test_an_expired_certificate_is_named(deployment):
    server = ServerFolder.open(deployment.server)
    federation = deployment.hosts.home("operator") / "federation"
    authority = Pair(certificate=(federation / "ca.pem").read_bytes(), key=(federation / "ca.key").read_bytes())
    before = server.certificate.read_bytes(), server.certificate_key.read_bytes()
    expired = issue(authority, [server.federation.host], now=datetime.now(UTC) - timedelta(days=9), days=1)
    deployment.hosts.stop(A, up(A))
    try:
        server.certificate.write_bytes(expired.certificate)
        server.certificate_key.write_bytes(expired.key)
        deployment.kill("nginx: master", deployment.server, signal.SIGHUP)
        time.sleep(2)
        assert refused(deployment, A, up(A), "expired")
    finally:
        server.certificate.write_bytes(before[0])
        server.certificate_key.write_bytes(before[1])
        deployment.kill("nginx: master", deployment.server, signal.SIGHUP)
        time.sleep(2)


def test_nobody_outside_reaches_the_control_api(deployment):
    """The gateway lets nodes' requests pass alone, and the SuperLink itself listens on its own machine alone."""
    paths = [
        "/v1/control/list-runs",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/fleet//../control/list-runs",
        "//v1/control/list-runs",
        "/V1/CONTROL/list-runs",
        "/v1/fleet/x?/../../control/list-runs",
        "/v1/runtime/acquire-task",
        "/docs",
        "/",
    ]
    address = deployment.hosts.address
    ca = deployment.node(A) / "ca.pem"
    for path in paths:
        line = f"curl -s --path-as-is --cacert {ca} -o /dev/null -w '%{{http_code}}' -X POST 'https://{address}{path}'"
        answer = deployment.hosts.run(A, line)
        assert answer.stdout == "404", (path, answer.stdout)
    old = f"curl -s --cacert {ca} --tls-max 1.2 https://{address}/health"
    assert deployment.hosts.run(A, old).returncode == 35
    health = deployment.hosts.run(A, f"curl -s --cacert {ca} -w '%{{http_code}}' https://{address}/health")
    assert health.stdout.endswith("200")
    if deployment.namespaces:
        host = address.split(":")[0]
        reached = deployment.hosts.run(A, f"curl -sk -m 5 https://{host}:{deployment.superlink_port}/health")
        assert reached.returncode == 7  # refused


def test_a_node_that_was_revoked_is_turned_away(deployment):
    """Last: the federation is another one afterwards."""
    line = f"fedtrain provision revoke federation {C}"
    assert deployment.hosts.run("operator", line).returncode == 0
    deployment.hosts.copy("operator", ["federation/server/membership.json"], f"{SERVER}:server/")
    deployment.members.remove(C)
    members = deployment.server / "logs" / "members.log"
    await_that(lambda: "2 members" in members.read_text(), "the server follows the membership", seconds=30)
    deployment.hosts.stop(C, up(C))
    assert refused(deployment, C, up(C), "does not know the SuperNode key")
    status, said = deployment.run("fewer", "federation.clients=2", "federation.cohort=2", "federation.min_results=2")
    assert status == 0, said
    assert {client for entry in deployment.report("fewer")["round_log"] for client in entry["completed"]} == {0, 1}
    assert holds(deployment, "fewer")
