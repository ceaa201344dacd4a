import asyncio
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from fedtrain.errors import KeyFileError, RunError, SiteError
from fedtrain.status import Answered, Asked, Begun, Done, Ended, RunStatus, as_json
from fedtrain.status.lines import Loss
from fedtrain.status.metrics import EPSILON, RUN, SITE
from fedtrain.status.web import kept_token, make_app, serve

TOKEN = "a-token-of-this-test"
ROOT = Path(__file__).parents[3]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_ATTEMPTS = 10
HOSTILE = '<img src=x onerror=alert(1)> \N{RIGHT-TO-LEFT OVERRIDE} & "quoted"'


def status(noise="secure"):
    names = {0: "hospital-a", 1: "hospital-b", 2: "hospital-c"}
    begun = Begun(
        time=100.0,
        name="digits",
        mode="record",
        rounds=4,
        done=0,
        clients=3,
        deadline=60.0,
        names=names,
        epsilon=2.0,
        delta=1e-3,
        noise=noise,
        budgets=dict.fromkeys(names, 8.0),
        metric="accuracy",
        baseline=0.1,
    )
    lines = [
        Done(time=1.0, round=1, clients=3, completed=3, seconds=4.0, value=0.5, epsilon=0.301, spent={0: 0.301}),
        Done(time=2.0, round=2, seconds=4.0, value=0.75, epsilon=0.4, losses=(Loss(client=1, reason=HOSTILE),)),
        Asked(time=100.0, round=3, clients=3, cohort=(0, 1, 2)),
        Answered(time=100.0, round=3, answered=1, client=0),
    ]
    found = RunStatus.begun_with(begun, before=None)
    for line in lines:
        found = found.after(line)
    return found.seen(alive=True, written=101.0)


def look(noise="secure"):
    return {"runs": [{"run": "first", **as_json(status(noise), now=110.0)}]}


def server_look():
    node = {"name": "hospital-a", "client": 0, "state": "away", "since": 100.0, "seen": 90.0, "software": "0.1.0"}
    server = {"federation": "0" * 32, "address": "fl.example.org:9443", "up": True, "answers": True, "connected": 0}
    return {**server, "directions": 2, "nodes": [{**node, "directions": 1}], **look()}


class Client:
    """Asks the application in this process."""

    def __init__(self, look):
        self._app = make_app(look, TOKEN)

    def request(self, method, path, headers=None):
        async def ask():
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(ask())

    def get(self, path, headers=None):
        return self.request("GET", path, headers)


@pytest.fixture
def client():
    return Client(look)


def bearer(token=TOKEN):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("path", ["/status", "/metrics"])
@pytest.mark.parametrize("headers", [{}, bearer(""), bearer(TOKEN[:-1]), bearer(TOKEN + "x"), {"Authorization": TOKEN}])
def test_nothing_is_told_without_the_token(client, path, headers):
    answer = client.get(path, headers=headers)
    assert answer.status_code == 401
    assert "digits" not in answer.text
    assert client.get(f"{path}?token={TOKEN}").status_code == 401  # addresses are logged


def test_with_the_token_it_is_told(client):
    answer = client.get("/status", headers=bearer())
    assert (answer.status_code, answer.json()["runs"][0]["late"]) == (200, ["hospital-b", "hospital-c"])
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/status"])
def test_the_page_may_load_nothing_from_elsewhere(client, path):
    answer = client.get(path, headers=bearer())
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
    assert "unsafe" not in policy
    assert "server" not in answer.headers
    if path == "/":
        assert "digits" not in answer.text
        assert TOKEN not in answer.text
    if path != "/status":
        assert set(re.findall(r"https?://[^\"' ]+", answer.text)) <= {"http://www.w3.org/2000/svg"}
        assert "innerHTML" not in answer.text
        assert not re.search(r"\sstyle=|\son[a-z]+=", answer.text)


def test_it_is_read_only_and_answers_to_its_own_name_alone(client):
    for path in ("/", "/status", "/metrics"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert client.request(method, path, headers=bearer()).status_code == 405
        assert client.get(path, headers={**bearer(), "Host": "evil.example"}).status_code == 400
    assert client.get("/docs", headers=bearer()).status_code == 404


def test_what_cannot_be_read_is_said():
    def broken():
        raise SiteError("cannot read run/nodes.json: gone")

    answer = Client(broken).get("/status", headers=bearer())
    assert (answer.status_code, answer.text) == (503, "cannot read run/nodes.json: gone\n")


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} of 127.0.0.1 cannot be used: .*; choose another with --port"):
            serve(look, port=port, token=TOKEN, say=lambda _: None)


def test_one_looks_at_a_time_and_the_others_get_the_same():
    looking, most, looks = 0, 0, 0

    def slow():
        nonlocal looking, most, looks
        looking, looks = looking + 1, looks + 1
        most = max(most, looking)
        time.sleep(0.05)
        looking -= 1
        return look()

    async def ask():
        transport = httpx.ASGITransport(app=make_app(slow, TOKEN))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await asyncio.gather(*(client.get("/status", headers=bearer()) for _ in range(8)))

    assert {answer.status_code for answer in asyncio.run(ask())} == {200}
    assert most == 1
    assert looks >= 1


def test_a_token_is_kept_in_a_file_of_its_owner(tmp_path):
    path = tmp_path / "web.token"
    token = kept_token(path)
    assert (kept_token(path), path.stat().st_mode & 0o777, len(token)) == (token, 0o600, 43)
    path.write_text(f"{token}\n")  # as an editor leaves it
    assert kept_token(path) == token
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="can be used by others"):
        kept_token(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"secret", b"a" * 21, b"a token with blanks in it", b"\xff" * 40])
def test_a_token_that_can_be_guessed_or_is_no_part_of_an_address_is_refused(tmp_path, content):
    path = tmp_path / "web.token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="holds no token of 22 or more letters"):
        kept_token(path)


def samples(found):
    pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")
    text = Client(lambda: found).get("/metrics", headers=bearer()).text
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_prometheus_reads_runs_sites_and_nodes():
    found = samples(server_look())
    assert found['fedtrain_round{run="first"}'] == "3.0"
    assert found['fedtrain_epsilon{noise="secure",run="first"}'] == "0.4"
    assert found['fedtrain_late_clients{run="first"}'] == "2.0"
    assert found['fedtrain_site_epsilon{noise="secure",run="first",site="hospital-a"}'] == "0.301"
    assert found['fedtrain_site_epsilon_budget{noise="secure",run="first",site="hospital-c"}'] == "8.0"
    assert found['fedtrain_node_connected{node="hospital-a"}'] == "0.0"
    assert found['fedtrain_run_state{run="first",state="running"}'] == "1.0"


def test_each_epsilon_of_a_simulation_says_that_its_noise_is_seeded():
    found = samples(look("seeded"))
    epsilons = [name for name in found if "epsilon" in name]
    assert len(epsilons) == 6  # the run and its budget, a site that has spent, and three budgets of sites
    assert all('noise="seeded"' in name for name in epsilons)
    assert not any("noise" in name for name in found.keys() - epsilons)
    text = Client(lambda: look("seeded")).get("/metrics", headers=bearer()).text
    meanings = [line for line in text.splitlines() if re.match(r"# HELP fedtrain_(site_)?epsilon ", line)]
    assert len(meanings) == 2
    assert all(line.endswith("With seeded noise, a simulation, it protects nobody.") for line in meanings)


def test_secret_cohorts_are_in_no_metric():
    begun = Begun(
        time=0.0, name="x", mode="client", rounds=2, done=0, clients=3, deadline=1.0, withheld=True, epsilon=2.0
    )
    hidden = RunStatus.begun_with(begun, before=None).after(Asked(time=0.0, round=1))
    found = samples({"runs": [{"run": "x", **as_json(hidden, now=1e9)}]})
    assert {name.partition("{")[0] for name in found} == {
        *("fedtrain_round", "fedtrain_rounds", "fedtrain_rounds_done", "fedtrain_epsilon_budget", "fedtrain_run_state"),
    }


def test_the_dashboard_asks_for_metrics_that_there_are():
    board = json.loads((ROOT / "deploy" / "grafana" / "fedtrain.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"fedtrain_\w+", target["expr"])
    }
    others = {"fedtrain_late_clients", "fedtrain_node_connected", *SITE}
    assert asked <= RUN.keys() | EPSILON.keys() | others
    assert EPSILON.keys() <= asked
    assert others <= asked


@contextmanager
def served(found):
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(found, TOKEN), log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def browsed(folder, address, *, width, ready):
    """Return the document of a page once it says something, and its picture."""
    picture = folder / f"{width}.png"
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
        *(f"--user-data-dir={folder / 'profile'}", f"--window-size={width},1600", "--virtual-time-budget=20000"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    ]
    # A browser on a busy machine may give up waiting before the page has its answer.
    for _ in range(_ATTEMPTS):
        done = subprocess.run(
            [*command, "--dump-dom", address], capture_output=True, text=True, timeout=900, check=True
        )
        if ready in done.stdout:
            break
    subprocess.run([*command, f"--screenshot={picture}", address], capture_output=True, timeout=900, check=True)
    return done.stdout, picture.read_bytes()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.slow
def test_a_browser_shows_the_page_and_nothing_that_is_hostile_runs(tmp_path):
    with served(server_look) as address:
        document, picture = browsed(tmp_path, f"{address}#{TOKEN}", width=390, ready='data-shown="yes"')
        refused, _ = browsed(tmp_path, f"{address}#wrong", width=390, ready="is not the one")
    assert 'data-shown="yes"' in document
    for text in (
        "hospital-b, hospital-c",
        "0.7500",
        "baseline 0.1000",
        "0.40",
        "federation 00000000 at fl.example.org:9443",
        "directions of the operator, version 2",
        "follow version 1: hospital-a",
    ):
        assert text in document
    assert "&lt;img src=x onerror=alert(1)&gt;" in document
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in document
    assert "<img" not in document
    assert "<polyline" in document
    assert picture.startswith(b"\x89PNG")
    assert "the token in this address is not the one" in refused
    assert "hospital" not in refused


def test_a_run_that_failed_says_why_on_the_page():
    ended = status().after(Ended(time=0.0, status="failed", reason="no disk", round=2))
    found = as_json(ended, now=0.0)
    assert (found["state"], found["reason"], found["left"], found["late"]) == ("failed", "no disk", None, [])
