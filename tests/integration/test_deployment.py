"""The tutorial of a deployment, on hosts of their own: in network namespaces, or else on loopback."""

import json

import pytest

from deploy.story import ROOT, commands, do
from tests.integration.deployed import SHARING, SITES

pytestmark = [*SHARING, pytest.mark.deployment]


SHARED = (ROOT / "docs" / "how-to" / "share-the-noise.md").read_text(encoding="utf-8")


@pytest.fixture
def deployment(shared_deployment):
    return shared_deployment.take(unchanged=True)


@pytest.mark.timeout(1800)
def test_every_command_of_the_tutorial_and_of_shared_noise_does_what_it_says(deployment):
    hosts, said = deployment.hosts, deployment.said
    before = {site: (deployment.node(site) / "site.toml").read_text() for site in SITES}
    for site in SITES:
        deployment.edit_site(site, ("minimum_cohort = 2", "minimum_cohort = 3"))  # as the tutorial leaves it
    while deployment.left:
        deployment.follow()
    for host, line in commands(SHARED):
        said[host, line] = do(hosts, host, line)
    for site, text in before.items():
        (deployment.node(site) / "site.toml").write_text(text)
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
    assert all(f"  {site} " in status for site in SITES)
    assert ": connected" in said["hospital-a", "fedtrain client status hospital-a"]
    assert "Traceback" not in run
    doctor = said["hospital-a", "fedtrain doctor hospital-a"]
    assert "fails" not in doctor
    # Nothing that a site keeps is on another host.
    for site in SITES:
        secrets = [(hosts.home(site) / site / name).read_bytes() for name in ("identity.pem", "supernode.pem")]
        elsewhere = [path for path in hosts.folder.rglob("*") if path.is_file() and site not in path.parts]
        for path in elsewhere:
            if not path.is_relative_to(hosts.home(site)) and "fedtrain" not in path.parts:
                content = path.read_bytes()
                assert not any(secret in content for secret in secrets)
