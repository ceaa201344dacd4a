"""The steps of docs/how-to/keep-a-budget.md, with fewer rounds."""

import json

import pytest

from tests.integration.conftest import ROOT

SITE = """
[budget]
epsilon = 4.0
delta = 1e-4

[policy]
minimum_noise = 1.0
modes = ["record"]
noise = ["seeded", "secure"]
"""


@pytest.mark.slow
def test_a_budget_is_kept_over_two_runs_until_it_ends(cli, tmp_path):
    sites = tmp_path / "sites"
    sites.mkdir()
    (sites / "site.toml").write_text(SITE)
    settings = {"federation.sites": sites, "privacy.epsilon": 3, "federation.rounds": 6}
    arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    demo = ("--config", ROOT / "simulations" / "demo.toml")

    assert cli.run(*demo, *arguments, out=tmp_path / "one").status == 0
    before = json.loads(cli.call("budget", sites, "--json").stdout)["datasets"]
    assert len(before) == 10
    fits = before[0]["fits"]
    assert 0 < fits < 6

    second = cli.run(*demo, *arguments, out=tmp_path / "two")
    assert second.status == 3
    assert "refused by the client" in second.stderr
    assert second.report["rounds"] == fits
    assert second.model()
    assert max(client["epsilon"] for client in second.report["privacy"]["clients"]) <= 4.0
    after = json.loads(cli.here("budget", sites, "--json").stdout)["datasets"]
    assert {row["fits"] for row in after} == {0}
    audit = cli.here("audit", second.out / "report.json", "--roster", second.out / "roster.json")
    assert audit.status == 4, audit.stdout  # a simulation, of which no check fails
