"""The tutorial of a deployment, on hosts of their own: in network namespaces, or else on loopback."""

import json
from itertools import chain

import pytest

from deploy.hosts import Hosts, namespaces_allowed
from deploy.story import HOSTS, ROOT, SERVER, commands, do, prepare
from tests.integration.deployed import NEEDS_NGINX, PAGE
from tests.ports import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.deployment,
    pytest.mark.timeout(1800),
    NEEDS_NGINX,
]


SHARED = (ROOT / "docs" / "how-to" / "share-the-noise.md").read_text(encoding="utf-8")


def test_every_command_of_the_tutorial_and_of_shared_noise_does_what_it_says(tmp_path):
    said = {}
    with Hosts(tmp_path, HOSTS, server=SERVER, namespaces=namespaces_allowed(), port=free_port()) as hosts:
        prepare(hosts)
        for host, line in chain(commands(PAGE), commands(SHARED)):
            said[host, line] = do(hosts, host, line)
        shared = json.loads((hosts.home("auditor") / "shared.json").read_text(encoding="utf-8"))
    run = next(text for (_, line), text in said.items() if line.startswith("fedtrain server run"))
    assert "round 4/4  clients 3/3" in run
    assert "encrypted end to end in every round; the server saw the sum of the updates alone in every round" in run
    audit = said["auditor", "fedtrain audit report.json --roster roster.json"]
    assert "The report holds as far as it can be proven" in audit
    privacy = shared["privacy"]
    assert privacy["mechanism"]["shares"]["honest"] == 2
    audit = said["auditor", "fedtrain audit shared.json --roster roster.json"]
    assert "The report holds as far as it can be proven" in audit
    status = said["server", "fedtrain server status server"]
    assert all(f"  {site} " in status for site in ("hospital-a", "hospital-b", "hospital-c"))
    assert ": connected" in said["hospital-a", "fedtrain client status hospital-a"]
    assert "Traceback" not in run
    doctor = said["hospital-a", "fedtrain doctor hospital-a"]
    assert "fails" not in doctor
    # Nothing that a site keeps is on another host.
    for site in ("hospital-a", "hospital-b", "hospital-c"):
        secrets = [(hosts.home(site) / site / name).read_bytes() for name in ("identity.pem", "supernode.pem")]
        elsewhere = [path for path in tmp_path.rglob("*") if path.is_file() and site not in path.parts]
        for path in elsewhere:
            if not path.is_relative_to(hosts.home(site)) and "fedtrain" not in path.parts:
                content = path.read_bytes()
                assert not any(secret in content for secret in secrets)
