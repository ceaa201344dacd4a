"""Workloads over a real SuperLink besides the tutorial's pictures: a table, texts, and the statistics of a page."""

import re
import tomllib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.story import ROOT, SERVER, commands, do
from fedtrain import load_run
from fedtrain.encoders.base import digest_of
from fedtrain.encoders.tokens import HashedWords
from tests.integration.deployed import SHARING, SITES

pytestmark = [*SHARING, pytest.mark.deployment]

PAGE = (ROOT / "docs" / "how-to" / "private-statistics.md").read_text(encoding="utf-8")
COUNT = 400
TABLE = ['data.feature_columns="age, hours"', "task.name=tabular", "task.model=linear"]
TEXT = [
    *("data.text_column=text", "data.max_bytes=100", "task.name=text", "task.model=bag"),
    *("task.encoder=words", "task.max_tokens=8"),
    f"task.encoder_digest={digest_of(HashedWords(8))}",
]


def people(seed):
    draw = np.random.default_rng(seed)
    age, hours = draw.uniform(18, 80, COUNT), np.clip(draw.normal(40, 8, COUNT), 0, 90)
    return pa.table({"age": age, "hours": hours, "label": np.where(age > 50, "yes", "no")})


def opinions(seed):
    good = np.random.default_rng(seed).integers(0, 2, COUNT)
    texts = [f"a {('bad', 'good')[each]} film" for each in good]
    return pa.table({"text": texts, "label": np.where(good == 1, "yes", "no")})


@pytest.fixture
def of_other_records(deployment):
    """Give a function that lets the sites and the server have other records, as their site files then say."""
    before = {site: (deployment.node(site) / "site.toml").read_text() for site in SITES}

    def change(name, table, sections):
        for number, site in enumerate(SITES):
            pq.write_table(table(number), deployment.hosts.home(site) / name)
            text = before[site]
            for section, lines in sections.items():
                for line in lines:
                    key = line.partition(" = ")[0]
                    start, rest = text.split(f"\n[{section}]\n")
                    body, *others = re.split(r"(?=\n\[)", rest, maxsplit=1)
                    body = re.sub(rf"^{key} = .*\n", "", body, flags=re.MULTILINE)
                    text = f"{start}\n[{section}]\n{line}\n{body}{''.join(others)}"
            tomllib.loads(text)
            (deployment.node(site) / "site.toml").write_text(text)
        pq.write_table(table(len(SITES)), deployment.hosts.home(SERVER) / name)

    yield change
    for site, text in before.items():
        (deployment.node(site) / "site.toml").write_text(text)


@pytest.mark.parametrize(
    ("name", "table", "data", "settings"),
    [
        ("people", people, ['feature_columns = "age, hours"'], TABLE),
        ("opinions", opinions, ['text_column = "text"', "max_bytes = 100"], TEXT),
    ],
    ids=["table", "text"],
)
def test_a_workload_is_trained_in_record_privacy(deployment, of_other_records, name, table, data, settings):
    own = [f'path = "../{name}.parquet"', 'classes = "no,yes"', *data]
    of_other_records(f"{name}.parquet", table, {"data": own, "policy": ['tasks = ["tabular", "text"]']})
    out = f"one-round-of-{name}"
    settings = [*settings, f"data.test_path={name}.parquet", 'data.classes="no,yes"', "federation.rounds=1"]
    status, said = deployment.run(out, *settings)
    assert status == 0, said
    report = deployment.report(out)
    (entry,) = report["round_log"]
    assert sorted(entry["completed"]) == [0, 1, 2]
    assert report["privacy"]["mode"] == "record"
    assert all(deployment.charged(site) >= 1 for site in SITES)
    assert deployment.holds(out)


def test_the_statistics_of_the_page_are_released_over_a_deployment(deployment, of_other_records):
    _, _, section = PAGE.partition("\n## In a deployment\n")
    (allowed,) = re.findall(r"^```toml\n(.*?)^```$", section.partition("\n## ")[0], flags=re.MULTILINE | re.DOTALL)
    allowed = {name: lines_of(table) for name, table in tomllib.loads(allowed).items()}
    of_other_records("people.parquet", people, allowed)
    hosts = deployment.hosts
    roster = max((hosts.home("operator") / "federation" / "rosters").glob("*.json"))
    hosts.copy("operator", [roster], "auditor:roster.json")
    said = {line: do(hosts, host, line) for host, line in commands(PAGE)}
    found = load_run(hosts.home(SERVER) / "runs" / "people").statistics()
    records = np.concatenate([people(number)["age"].to_numpy() for number in range(len(SITES))])
    assert found.count.value == pytest.approx(len(records), abs=8 * found.count.error)
    assert found.columns[0].mean.value == pytest.approx(records.mean(), abs=8 * found.columns[0].mean.error)
    assert "± is 1.96 standard errors" in said["fedtrain stats runs/people"]
    assert "The report holds as far as it can be proven" in said["fedtrain audit people.json --roster roster.json"]
    assert deployment.holds("people")
    assert all(deployment.charged(site) == 1 for site in SITES)


def lines_of(table):
    return [f"{key} = {value!r}".replace("'", '"') for key, value in table.items()]
