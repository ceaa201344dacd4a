"""What goes wrong at clients leaves the right model or a clear error, and no ledger that counts too little."""

import signal
import subprocess
import time

import pytest

from tests.integration.deployed import ROUNDS, SHARING, SITES, await_that, up

pytestmark = [*SHARING, pytest.mark.faults]
A, B, C = SITES


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_client_that_is_killed_is_left_out_of_the_round_and_gets_work_again(deployment, moment):
    out = f"killed-{moment}"
    lines = {"before": 0, "during": 1, "after": 2}[moment]
    run = deployment.begin(out, "federation.deadline=60.0")
    log = deployment.node(B) / "logs" / "supernode.log"
    start = len(log.read_bytes())
    if moment == "before":
        await_that(lambda: b"Receiving: train message" in log.read_bytes()[start:], "the client is asked to train")
    else:
        await_that(lambda: deployment.lines(B) >= lines, f"its ledger has {lines} entries")
    deployment.kill_node(B)
    charged = deployment.charged(B)
    deployment.connect(B)
    status, said = deployment.finish(run)
    assert status == 0, said
    log = deployment.report(out)["round_log"]
    assert [sorted(entry["completed"]) for entry in log][-1] == [0, 1, 2]
    assert 1 in {drop["client"] for drop in log[0]["dropped"]} | set(log[0]["completed"])
    assert deployment.charged(B) >= max(charged, sum(1 in entry["completed"] for entry in log))
    assert deployment.holds(out)


def test_a_client_that_is_killed_while_it_sends_holds_nobody_back(deployment):
    log = deployment.node(B) / "logs" / "supernode.log"
    start = log.stat().st_size
    run = deployment.begin("sending", "federation.rounds=1", "federation.deadline=60.0")
    await_that(lambda: b"Sending: train message" in log.read_bytes()[start:], "the client sends")
    # Often the SuperLink has the message by then, and not what is in it. The process that sends comes first.
    assert deployment.kill("fedtrain.flower.supernode", deployment.node(B)) > 0
    deployment.kill_node(B)
    status, said = deployment.finish(run)
    assert status == 0, said
    (first,) = deployment.report("sending")["round_log"]
    assert {0, 2} <= set(first["completed"])
    assert deployment.spent_at_least("sending")
    assert deployment.holds("sending")


def test_a_client_that_never_answers_is_not_waited_for_longer_than_the_deadline(deployment):
    run = deployment.begin("silent", "federation.rounds=1", "federation.deadline=40.0")
    await_that(lambda: deployment.lines(C) >= 1, "the client has begun")
    deployment.kill("flwr-clientapp|superexec|flower.supernode", deployment.node(C), signal.SIGSTOP)
    status, said = deployment.finish(run)
    deployment.kill("flwr-clientapp|superexec|flower.supernode", deployment.node(C), signal.SIGCONT)
    assert status == 0, said
    (first,) = deployment.report("silent")["round_log"]
    assert sorted(first["completed"]) == [0, 1]
    assert [drop["client"] for drop in first["dropped"]] == [2]
    assert deployment.charged(C) >= 1
    assert deployment.holds("silent")
    deployment.kill_node(C)


def test_a_link_that_is_cut_and_mended_carries_the_run_on(deployment):
    if not deployment.namespaces:
        pytest.skip("network namespaces are not permitted here")
    run = deployment.begin("cut", "federation.deadline=60.0")
    await_that(lambda: deployment.lines(A) >= 1, "the client has begun")
    deployment.hosts.cut(A)
    time.sleep(25)
    deployment.hosts.mend(A)
    status, said = deployment.finish(run)
    assert status == 0, said
    log = deployment.report("cut")["round_log"]
    assert len(log) == ROUNDS
    assert all({1, 2} <= set(entry["completed"]) for entry in log)
    assert deployment.spent_at_least("cut")
    assert deployment.holds("cut")


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
