"""What goes wrong at the server leaves a run that goes on, and no ledger that counts too little."""

import shutil

import pytest

from tests.integration.deployed import CONNECTED, ROUNDS, SERVER, SHARING, SITES, await_that

pytestmark = [*SHARING, pytest.mark.faults]
A = SITES[0]


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
    assert "ended without a report: its app ended without a word, as one that is killed" in said
    status, said = deployment.run(out, resume=True)
    assert status == 0, said
    assert deployment.report(out)["status"] == "completed"
    assert all(deployment.charged(site) >= ROUNDS for site in SITES)
    assert deployment.holds(out)


def test_a_superlink_that_is_killed_is_started_again_and_the_run_completes(deployment):
    run = deployment.begin("superlink")
    await_that(lambda: deployment.lines(A) >= 1, "the first round has begun")
    assert deployment.kill("flower-superlink", deployment.server) > 0
    status, said = deployment.finish(run)
    assert status == 0, said
    assert deployment.report("superlink")["status"] == "completed"
    assert deployment.holds("superlink")


def test_a_server_whose_machine_is_lost_is_replaced_by_another_and_nodes_come_to_it(deployment):
    deployment.changed = True
    logged = deployment.logged()
    deployment.hosts.stop(SERVER, deployment.up_line)
    former = (deployment.server / "identity.pem").read_bytes()
    shutil.rmtree(deployment.server)
    shutil.rmtree(deployment.hosts.home("operator") / "federation" / "server")
    line = "fedtrain provision rotate-server federation --identity"
    assert deployment.hosts.run("operator", line).returncode == 0
    deployment.hosts.copy("operator", ["federation/server"], f"{SERVER}:")
    assert (deployment.server / "identity.pem").read_bytes() != former
    deployment.serve()
    deployment.await_nodes(CONNECTED, logged)
    status, said = deployment.run("replaced")
    assert status == 0, said
    assert all(deployment.charged(site) == ROUNDS for site in SITES)
    assert deployment.holds("replaced")
