import fnmatch
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
NOT_ROOT = re.compile(r"USER [1-9]\d*:[1-9]\d*")


def stages():
    """Return the instructions of each stage of the Dockerfile, by its name."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = {}
    for line in lines:
        if line.startswith("FROM "):
            found[line.split(" AS ")[1]] = instructions = []
        instructions.append(line)
    return found


def copied():
    """Return what is copied from the context, of all stages."""
    lines = [line for stage in stages().values() for line in stage if line.startswith("COPY ")]
    return [source for line in lines if "--from=" not in line for source in line.split()[1:-1]]


def service(name):
    return YAML(typ="safe").load(DEPLOY / f"compose.{name}.yaml")["services"][name]


@pytest.mark.parametrize("target", ["server", "client"])
def test_nothing_runs_as_root(target):
    found = stages()
    users = [line for line in found["base"] + found[target] if line.startswith("USER ")]
    assert NOT_ROOT.fullmatch(users[-1])


def test_images_are_named_by_a_whole_version():
    images = {line.split()[1] for stage in stages().values() for line in stage if line.startswith("FROM ")}
    outside = images - stages().keys()
    assert len(outside) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", outside.pop())


def test_what_is_copied_is_there_and_nothing_else_is_sent_to_the_engine():
    rules = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(rule == source or rule.startswith(f"{source}/") for rule in allowed), source
    for rule in allowed:
        assert any(rule == source or rule.startswith(f"{source}/") for source in copied()), rule


def test_no_secret_could_enter_a_layer():
    assert not [source for source in copied() if source in {".", "./"}]
    lines = [line for stage in stages().values() for line in stage]
    assert not [line for line in lines if line.startswith("ADD ")]
    assert not [line for line in lines if re.search(r"(?i)password|secret|token|\.key|\.pem", line)]
    sent = [rule[1:] for rule in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if rule[:1] == "!"]
    for secret in ("server/identity.pem", "clients/node/dataset.key", "runs/x/report.json", "operator.pem"):
        assert not any(fnmatch.fnmatch(secret, rule) for rule in sent), secret


@pytest.mark.parametrize("name", ["server", "client"])
def test_containers_have_no_rights_that_they_do_not_need(name):
    found = service(name)
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["read_only"] is True
    assert found["restart"] == "unless-stopped"
    assert not found.keys() & {"privileged", "cap_add", "devices", "network_mode", "pid", "environment", "secrets"}
    assert found["build"]["target"] == name
    assert [volume for volume in found["volumes"] if not volume.endswith(":ro")] == [f"./{mounted(name)}:/srv/fedtrain"]


def mounted(name):
    return {"server": "server", "client": "node"}[name]


def test_a_node_publishes_no_port_and_the_server_one():
    assert "ports" not in service("client")
    assert service("server")["ports"] == ["9443:9443"]
