import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedtrain.cli.app import app
from fedtrain.deployment import status as looking
from fedtrain.deployment.news import RunNews
from fedtrain.deployment.processes import only_one
from fedtrain.deployment.status import ServerView, server_described, status_as_json
from fedtrain.machines.nodes import Nodes, NodeState, read_nodes, write_nodes
from fedtrain.status import FILE, Asked, Begun, Done, Ended, EventLog
from fedtrain.status.lines import Loss
from fedtrain.status.words import plain
from tests.unit.deployment.test_guide import directed
from tests.unit.health import folders

NOW = 1000.0


@pytest.fixture
def server(tmp_path, members, ca):
    made = folders.server_folder(tmp_path / "server", members, ca)
    (made.path / "run").mkdir(exist_ok=True)
    made.runs.mkdir(exist_ok=True)
    return made


def begun(**values):
    fixed = {"time": NOW, "name": "digits", "mode": "none", "rounds": 3, "done": 0, "clients": 2, "deadline": 60.0}
    return Begun(**({**fixed, "names": {0: "site-a", 1: "site-b"}} | values))


def run(server, name, *lines):
    (server.runs / name).mkdir()
    log = EventLog(server.runs / name / FILE)
    for number, line in enumerate(lines):
        (log.append if number else log.begin)(line)
    return log


def nodes(*states, time=NOW):
    found = [
        NodeState(name=f"site-{chr(97 + n)}", client=n, state=s, since=NOW - 60, seen=NOW - 5)
        for n, s in enumerate(states)
    ]
    return Nodes(time=time, nodes=tuple(found))


def test_a_server_that_was_never_up(server):
    status = ServerView(server).status()
    assert plain(server_described(status, now=NOW)).splitlines()[0].endswith("the server is not up")
    assert status_as_json(status, now=NOW)["nodes"] == []


def test_nodes_and_the_run_that_goes_on_are_shown_together(server):
    write_nodes(server, nodes("connected", "away"))
    run(server, "old", begun(), Ended(time=NOW, status="completed", round=3)).close()
    lost = Loss(client=1, reason="no answer")
    done = Done(time=NOW, round=1, clients=2, completed=1, seconds=2.0, losses=(lost,))
    with run(server, "now", begun(), done, Asked(time=NOW, round=2, clients=2, cohort=(0, 1))), only_one(server.path):
        status = ServerView(server).status()
        shown = plain(server_described(status, now=NOW + 4))
        found = status_as_json(status, now=NOW + 4)
        runs = [name for name, _ in ServerView(server).runs()]
    assert set(runs) == {"old", "now"}
    assert (found["up"], found["answers"], found["connected"]) == (True, True, 1)
    assert [each["run"] for each in found["runs"]] == ["now"]
    assert ": up" in shown.splitlines()[0]
    assert "nodes      1 of 2 are connected" in shown
    assert "  site-b  away             for 1 min 04 s, seen 9.0 s ago  late" in shown
    assert "run now" in shown
    assert "round 1: site-b: no answer" in shown


def test_a_long_name_of_a_node_leaves_room_for_how_it_stands(server):
    found = nodes("connected", "away").nodes
    write_nodes(server, Nodes(time=NOW, nodes=(replace(found[0], name="n" * 63), found[1])))
    first = begun(budgets={0: 20.0, 1: 20.0}, spent={0: 0.0, 1: 0.0}, software={0: "0.1.0"})
    asked = Asked(time=NOW, round=1, clients=2, cohort=(0, 1))
    with run(server, "now", first, asked), only_one(server.path):
        shown = plain(server_described(ServerView(server).status(), now=NOW + 1))
    for name in ("n{21}…n{10}", "site-b"):
        assert re.search(rf"^  {name} .*  asked     epsilon 0 of its own 20$", shown, re.MULTILINE)


def test_a_node_is_shown_with_the_version_that_it_said(server):
    write_nodes(server, nodes("connected", "connected"))
    with run(server, "now", begun(software={1: "0.1\x1b[2J"})), only_one(server.path):
        status = ServerView(server).status()
    shown = plain(server_described(status, now=NOW)).splitlines()
    assert [node["software"] for node in status_as_json(status, now=NOW)["nodes"]] == [
        None,
        "0.1\N{REPLACEMENT CHARACTER}[2J",
    ]
    assert "says" not in next(line for line in shown if "site-a" in line)
    assert "says 0.1\N{REPLACEMENT CHARACTER}[2J" in next(line for line in shown if "site-b" in line)


def test_the_operator_sees_which_nodes_follow_the_newest_directions(server, members, ca):
    write_nodes(server, nodes("connected", "connected", "away", "connected"))
    view = ServerView(server)
    names = {number: f"site-{letter}" for number, letter in enumerate("abcd")}
    with run(server, "now", begun(names=names, directions={0: 2, 1: 1, 2: 0})), only_one(server.path):
        before, found = server_described(view.status(), now=NOW), status_as_json(view.status(), now=NOW)
        assert "directions" not in plain(before)  # the server is where the kits say
        assert (found["directions"], found["address"]) == (0, server.federation.address)
        moved = directed(members, ca, 2, "fl.example.org:9443", server.federation.address)
        server.directions.write_bytes(moved.line())  # while somebody looks
        status = view.status()
    shown, found = server_described(status, now=NOW), status_as_json(status, now=NOW)
    place = [line.text for line in shown].index("directions of the operator, version 2, as nodes say when a run begins")
    assert [(line.text, line.tone) for line in shown[place + 1 : place + 5]] == [
        ("  follow them: site-a", "text"),
        ("  follow version 1: site-b", "bad"),
        ("  follow their kit: site-c", "bad"),
        ("  not known: site-d", "faint"),
    ]
    assert (found["directions"], found["address"]) == (2, "fl.example.org:9443")
    assert [node["directions"] for node in found["nodes"]] == [2, 1, 0, None]


def test_the_nodes_that_follow_take_few_lines(server, members, ca):
    many = tuple(NodeState(name=f"site-{n:03d}", client=n, state="connected") for n in range(200))
    write_nodes(server, Nodes(time=NOW, nodes=many))
    server.directions.write_bytes(directed(members, ca, 1, "fl.example.org:9443").line())
    said = {n: n % 2 for n in range(200)}
    run(server, "now", begun(names={n: f"site-{n:03d}" for n in said}, directions=said)).close()
    lines = [line.text for line in server_described(ServerView(server).status(), now=NOW)]
    (follow,) = (line for line in lines if "follow them" in line)
    assert follow.endswith("site-013, site-015 and 92 more")


def test_a_superlink_that_does_not_answer_is_told(server):
    write_nodes(server, nodes("connected"))
    with only_one(server.path):
        status = ServerView(server).status()
    assert "its SuperLink does not answer" in plain(server_described(status, now=NOW + 60))


@pytest.mark.parametrize("up", [False, True])
def test_of_a_server_that_is_gone_no_node_is_called_connected(server, up):
    write_nodes(server, nodes("connected", "away", "never connected"))
    with only_one(server.path) if up else nullcontext():
        status = ServerView(server).status()
    now = NOW + 60
    found = status_as_json(status, now=now)
    assert [(node["state"], node["since"], node["seen"]) for node in found["nodes"]] == [
        *[("not known", None, NOW - 5)] * 2,
        ("never connected", NOW - 60, NOW - 5),
    ]
    assert found["connected"] == 0
    shown = plain(server_described(status, now=now)).splitlines()
    assert "nodes      0 of 3 are connected" in shown
    assert any(re.match("  site-a  not known +seen 1 min 05 s ago", line) for line in shown)


def test_without_a_run_that_goes_on_the_latest_is_shown(server):
    for name in ("one", "two"):
        run(server, name, begun(), Ended(time=NOW, status="failed", reason="client 1: no answer", round=0)).close()
    status = ServerView(server).status()
    assert len(status.runs) == 1
    assert "site-b (client 1): no answer" in plain(server_described(status, now=NOW))


def test_two_hundred_nodes_take_one_file_and_one_screen(server, monkeypatch):
    many = tuple(NodeState(name=f"site-{n:03d}", client=n, state="connected", since=1.0, seen=2.0) for n in range(200))
    write_nodes(server, Nodes(time=NOW, nodes=(*many[:-1], replace(many[-1], state="away"))))
    read = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self.name) or real(self))
    with only_one(server.path):
        status = ServerView(server).status()
    assert read == ["federation.json", "nodes.json", "server.crt", "ca.pem"]
    lines = plain(server_described(status, now=NOW)).splitlines()
    assert len(lines) < 50
    assert lines[1] == "nodes      199 of 200 are connected"
    assert lines[2].split()[:2] == ["site-199", "away"]
    assert len(status_as_json(status, now=NOW)["nodes"]) == 200


def test_many_runs_are_not_all_read(server, monkeypatch):
    for number in range(20):
        run(server, f"run-{number:02d}", begun(), Ended(time=NOW, status="completed", round=3)).close()
    followed = []
    real = looking.Follower
    monkeypatch.setattr(looking, "Follower", lambda path: followed.append(path) or real(path))
    ServerView(server).status()
    assert len(followed) <= 8


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "fedtrain.nodes/9"}', '{"schema": "fedtrain.nodes/1"}'])
def test_a_damaged_file_of_nodes_is_named(server, content):
    (server.path / "run" / "nodes.json").write_text(content)
    with pytest.raises(Exception, match=r"nodes\.json"):
        read_nodes(server)


def test_who_is_at_the_server_is_told_what_is_new_and_nothing_twice(server):
    with run(server, "before", begun()):
        news = RunNews(server.runs)
        assert news.lines() == []
        with run(server, "now", begun()) as log:
            assert news.lines() == ["run now begins: 3 rounds"]
            assert news.lines() == []
            log.append(Done(time=NOW, round=1, losses=(Loss(client=1, reason="a \x1b[31mred reason"),)))
            assert news.lines() == [
                "run now, round 1: site-b gave no result: a \N{REPLACEMENT CHARACTER}[31mred reason"
            ]
        assert news.lines() == ["run now has lost its server"]
        with run_again(server, "now", begun(done=1)) as log:
            assert news.lines() == ["run now goes on after round 1: 3 rounds"]
            log.append(Ended(time=NOW, status="failed", reason="first\nsecond", round=1))
            assert news.lines() == ["run now failed: first"]
        assert news.lines() == []
    (server.runs / "strange").mkdir()
    (server.runs / "strange" / FILE).write_text(json.dumps({"event": "run", "schema": "x"}) + "\n")
    assert news.lines() == ["run before has lost its server"]


def run_again(server, name, line):
    log = EventLog(server.runs / name / FILE)
    log.begin(line)
    return log


def test_a_log_is_one_of_a_run_or_of_a_node_and_shows_nothing_but_text(server):
    write_nodes(server, nodes("connected"))
    (server.logs / "runs").mkdir(parents=True)
    (server.logs / "runs" / "first.log").write_text("round 1\x1b[2J\n")
    (server.logs / "members.log").write_text("site-a is connected\x1b[2J\nsite-ab is connected\n")
    (server.path / "secret.log").write_text("a secret")

    def logs(name):
        return CliRunner().invoke(app, ["server", "logs", str(server.path), name])

    assert logs("first").stdout == "round 1\N{REPLACEMENT CHARACTER}[2J\n"
    assert logs("site-a").stdout == "site-a is connected\N{REPLACEMENT CHARACTER}[2J\n"
    for name in ("../../secret", "../members", str(server.path / "secret"), "runs/../first", "", "none"):
        outcome = logs(name)
        assert (outcome.exit_code, outcome.stdout) == (2, "")
        assert "knows no node of that name" in outcome.stderr
