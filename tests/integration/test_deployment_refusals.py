"""Who and what a deployment turns away, each with its reason; and that its model is the simulated one."""

import json
import shutil
import signal
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from safetensors.numpy import load

from fedtrain.cli.provision import OperatorFolder
from fedtrain.machines import ServerFolder, read_membership
from fedtrain.provision.certificates import Pair, issue
from tests.integration.deployed import CONNECTED, SERVER, SHARING, SITES, await_that, up
from tests.ports import free_port

pytestmark = [*SHARING, pytest.mark.deployment]
A, B, C = SITES


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
    line = f"fedtrain simulate --config fedtrain/simulations/deployed.toml {words} --out ../simulated"
    simulated = deployment.hosts.run("operator", line)
    assert simulated.returncode == 0, simulated.stdout
    mine = load((deployment.hosts.folder / "simulated" / "model-final.safetensors").read_bytes())
    theirs = load(deployment.model("plain"))
    assert {name: array.tobytes() for name, array in mine.items()} == {
        name: array.tobytes() for name, array in theirs.items()
    }
    assert all(np.isfinite(array).all() for array in mine.values())


def test_a_bundle_that_no_site_approved_does_not_run(deployment):
    for site in SITES:
        approved = deployment.node(site) / "approved.json"
        approved.rename(approved.with_suffix(".kept"))
    try:
        for site in SITES:  # a node that has run a bundle holds it
            deployment.hosts.stop(site, up(site))
        deployment.connect()
        status, said = deployment.run("unapproved")
        assert status == 1
        assert "has not approved the bundle" in said
        assert all(deployment.charged(site) == 0 for site in SITES)
    finally:
        for site in SITES:
            (deployment.node(site) / "approved.kept").rename(deployment.node(site) / "approved.json")


def shown(deployment):
    """Return the run that the server's status shows first."""
    said = deployment.hosts.run(SERVER, "fedtrain server status server --json").stdout
    return json.loads(said)["runs"][0]


@pytest.mark.timeout(1800)
def test_an_operator_sees_which_port_is_in_use_who_has_not_approved_and_who_is_late(deployment):
    """The operator's walk: one thing after the other goes wrong, is named, is put right, and the run completes."""
    shutil.copytree(
        deployment.server, deployment.hosts.home(SERVER) / "second", ignore=shutil.ignore_patterns("run", ".running")
    )
    second = deployment.hosts.run(SERVER, f"fedtrain server up second --port {free_port()}")
    assert second.returncode == 1
    (error,) = [line for line in second.stdout.splitlines() if line.startswith("error:")]
    assert f"port {deployment.hosts.address.rpartition(':')[2]}" in error
    assert "is in use" in error

    everyone = ("federation.cohort=3", "federation.min_results=2", "federation.rounds=1", "federation.deadline=80.0")
    approved = deployment.node(B) / "approved.json"
    approved.rename(approved.with_suffix(".kept"))
    try:
        deployment.hosts.stop(B, up(B))  # a node that has run a bundle holds it
        deployment.connect(B)
        status, said = deployment.run("walk", *everyone)
        assert status == 1
        error = said[said.index("error: the run walk did not begin") :]
        assert "has not approved the bundle" in error
        assert f"client 1, {B}, is not in the session" in error
        assert f"\n{B}: the site has not approved the bundle" in error  # and no number of a node
        assert "its name is free for the same command" in error
        assert "Traceback" not in said
    finally:
        approved.with_suffix(".kept").rename(approved)

    programs = "flwr-clientapp|superexec|flower.supernode"
    before = deployment.lines(C)
    run = deployment.begin("walk", *everyone)
    try:
        await_that(lambda: deployment.lines(C) > before, "the client has begun")
        deployment.kill(programs, deployment.node(C), signal.SIGSTOP)
        await_that(lambda: shown(deployment)["late"] == [C], "the status names who is late")
    finally:
        deployment.kill(programs, deployment.node(C), signal.SIGCONT)
    status, said = deployment.finish(run)
    assert status == 0, said
    (only,) = deployment.report("walk")["round_log"]
    assert sorted([*only["completed"], *(drop["client"] for drop in only["dropped"])]) == [0, 1, 2]
    assert {0, 1} <= set(only["completed"])
    now = shown(deployment)
    assert (now["run"], now["state"], now["late"]) == ("walk", "completed", [])
    assert deployment.holds("walk")


def refused(deployment, site, line, reason):
    """Say whether a node that is started says why it does not connect."""
    deployment.hosts.stay(site, line, "trying again")
    try:
        deployment.hosts.await_line(site, line, reason, seconds=300)
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
    operator = OperatorFolder.create(
        deployment.hosts.folder / "another", address="x.example:1", names=(), days=9, now=datetime.now(UTC)
    )
    shutil.copy(operator.path / "ca.pem", other / "ca.pem")
    assert refused(deployment, A, "fedtrain client up other-ca", "wrong CA")
    if shutil.which("faketime"):
        line = "faketime -f +1h fedtrain client up hospital-a"
        assert refused(deployment, A, line, "clock")
        # It does not pass the signal on.
        deployment.kill("fedtrain client up", deployment.hosts.home(A))


def test_an_expired_certificate_is_named_and_nodes_are_back_when_it_was_renewed(deployment):
    server = ServerFolder.open(deployment.server)
    federation = deployment.hosts.home("operator") / "federation"
    authority = Pair(certificate=(federation / "ca.pem").read_bytes(), key=(federation / "ca.key").read_bytes())
    before = server.certificate.read_bytes(), server.certificate_key.read_bytes()
    expired = issue(authority, [server.federation.host], now=datetime.now(UTC) - timedelta(days=9), days=1)
    deployment.hosts.stop(A, up(A))
    logged = deployment.logged(B, C)
    try:
        server.certificate.write_bytes(expired.certificate)
        server.certificate_key.write_bytes(expired.key)
        deployment.kill("nginx: master", deployment.server, signal.SIGHUP)
        time.sleep(2)
        assert refused(deployment, A, up(A), "expired")
        deployment.await_nodes("expired", logged, seconds=300)
    finally:
        server.certificate.write_bytes(before[0])
        server.certificate_key.write_bytes(before[1])
        deployment.kill("nginx: master", deployment.server, signal.SIGHUP)
    deployment.await_nodes(CONNECTED, logged)


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
    """One that was connected, and of a membership that the others have seen."""
    hosts, d, host = deployment.hosts, "hospital-d", "auditor"

    def do(host, line):
        done = hosts.run(host, line)
        assert done.returncode == 0, done.stdout

    def follow_membership():
        hosts.copy("operator", ["federation/server/membership.json"], f"{SERVER}:server/")
        server = ServerFolder.open(deployment.server)
        membership, _ = read_membership(server.membership, server.federation)
        log, said = server.logs / "members.log", f"membership version {membership.version}: "
        await_that(lambda: said in log.read_text(), "the server follows", seconds=180)

    deployment.changed = True
    do("operator", f"fedtrain provision add federation {d}")
    hosts.copy("operator", [f"federation/kits/{d}"], f"{host}:")
    do(host, f"fedtrain client init {d}")
    do("operator", f"fedtrain provision admit federation {d} {hosts.home(host) / d / 'request.json'}")
    follow_membership()
    hosts.stay(host, up(d), CONNECTED)
    do("operator", f"fedtrain provision revoke federation {d}")
    follow_membership()
    hosts.stop(host, up(d))
    assert refused(deployment, host, up(d), "does not know the SuperNode key")
    status, said = deployment.run("fewer")
    assert status == 0, said
    assert {client for entry in deployment.report("fewer")["round_log"] for client in entry["completed"]} == {0, 1, 2}
    assert deployment.holds("fewer")
