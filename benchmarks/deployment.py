"""Seconds a round of a deployment: each layer of ours, and a plain Flower app, on the same SuperLink and nodes.

One machine plays all hosts on loopback: a gateway, a SuperLink, and three nodes. ``make bench-deployment`` runs it, in
a quarter of an hour. Flower's nodes look for messages every three seconds, its own server too, and each message starts
a process: all of that is in every number. A run in which a node did not do its work in each round ends with an error.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from proof import require, require_epsilon, require_loss, require_results

from deploy.hosts import Hosts
from deploy.story import HOSTS, ROOT, SERVER, commands, do, prepare

SITES = ("hospital-a", "hospital-b", "hospital-c")
ROUNDS = 4
PORT = 29443
PAGE = ROOT / "docs" / "tutorial" / "deploy.md"

BARE = {"transport.sealed": "false", "transport.secagg.enabled": "false"}
NO_PRIVACY = {
    "privacy.mode": "none",
    "privacy.noise": "seeded",
    "privacy.sampling_rate": '""',
    "privacy.max_participations": '""',
}
NO_OP = {**NO_PRIVACY, "training.local_steps": "1", "training.batch_size": "1"}
SEALED, MASKED = {"transport.sealed": "true"}, {"transport.secagg.enabled": "true"}
OURS = {
    "no-op, no layer": {**NO_OP, **BARE},
    "no-op, sealed and summed": {**NO_OP, **SEALED, **MASKED},
    "digits, no layer": {**NO_PRIVACY, **BARE},
    "digits, sealed": {**NO_PRIVACY, **BARE, **SEALED},
    "digits, summed": {**NO_PRIVACY, **BARE, **MASKED},
    "digits, sealed and summed": {**NO_PRIVACY, **SEALED, **MASKED},
    "digits, sealed, summed, record privacy": {**SEALED, **MASKED},
}
FLOWER = {"no-op, plain Flower": 0, "digits, plain Flower": 15}  # local steps


def provision(hosts: Hosts) -> None:
    """Do what the tutorial does up to its run; sites allow everything here, and the plain app too."""
    for host, line in commands(PAGE.read_text(encoding="utf-8")):
        if line.startswith("fedtrain server up"):
            break
        do(hosts, host, line)
    do(hosts, SERVER, "fedtrain server bundle --app fedtrain/benchmarks/plain_flower --out plain.fab")
    for site in SITES:
        hosts.copy(SERVER, ["plain.fab"], f"{site}:")
        do(hosts, site, f"fedtrain client approve {site} plain.fab --yes")
        file = hosts.home(site) / site / "site.toml"
        text = file.read_text(encoding="utf-8").replace('["record"]', '["none", "record"]')
        text = text.replace("sealed = true", "sealed = false").replace("secagg = true", "secagg = false")
        file.write_text(text, encoding="utf-8")
    do(hosts, SERVER, "fedtrain server up server --port 29091")
    for site in SITES:
        do(hosts, site, f"fedtrain client up {site}")


def ours(hosts: Hosts, name: str, settings: dict[str, str]) -> list[float]:
    """Return the seconds of each round of a run of ours."""
    out = name.replace(" ", "-").replace(",", "")
    words = " ".join(f"--set '{key}={value}'" for key, value in settings.items())
    do(
        hosts,
        SERVER,
        "fedtrain server run server --config fedtrain/simulations/deployed.toml "
        f"--set federation.rounds={ROUNDS} {words} --out runs/{out}",
    )
    report = json.loads((hosts.home(SERVER) / "runs" / out / "report.json").read_text(encoding="utf-8"))
    check(report, private="record" in name, trains=not name.startswith("no-op"))
    return [entry["seconds"] for entry in report["round_log"]]


def check(report: dict[str, Any], *, private: bool, trains: bool) -> None:
    """Require that each node did its work in each round, and that the model is better for it."""
    require(report["status"] == "completed", f"the run ended as {report['status']}: {report['reason']}")
    results = [len(entry["completed"]) for entry in report["round_log"]]
    require_results(results, rounds=ROUNDS, cohort=len(SITES))
    history = report["evaluation"]["history"]
    require_loss(history[0]["loss"], history[-1]["loss"], falls=trains and not private)
    if private:
        require_epsilon(report["privacy"]["epsilon"], most=report["config"]["privacy.epsilon"])


def flower(hosts: Hosts, steps: int) -> list[float]:
    """Return the seconds of each round of the plain Flower app."""
    times = hosts.home(SERVER) / "times.json"
    home = hosts.home(SERVER) / "server" / "run" / "flwr"
    app = ROOT / "benchmarks" / "plain_flower"
    data = hosts.folder
    config = f'rounds={ROUNDS} steps={steps} times="{times}" data="{data}"'
    do(hosts, SERVER, f"cd {home} && FLWR_HOME={home} flwr run {app} fedtrain --stream --run-config '{config}'")
    found = json.loads(times.read_text(encoding="utf-8"))
    require_results(found["results"], rounds=ROUNDS, cohort=len(SITES))
    require(found["moved"] == (steps > 0), f"the model has moved: {found['moved']}, after {steps} steps a round")
    return list(found["seconds"])


def main() -> None:
    """Print a table."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Hosts(Path(folder), HOSTS, server=SERVER, namespaces=False, port=PORT) as hosts,
    ):
        prepare(hosts)
        provision(hosts)
        found: dict[str, float] = {}
        for name, steps in FLOWER.items():
            found[name] = statistics.median(flower(hosts, steps))
            print(f"{name}: {found[name]:.1f} s", file=sys.stderr, flush=True)
        for name, settings in OURS.items():
            found[name] = statistics.median(ours(hosts, name, settings))
            print(f"{name}: {found[name]:.1f} s", file=sys.stderr, flush=True)
    print(f"median seconds of {ROUNDS} rounds; three nodes on this machine\n")
    for name, seconds in found.items():
        floor = found[f"{name.split(',')[0]}, plain Flower"]
        print(f"{name:42} {seconds:6.1f} s   {seconds / floor:5.2f} times plain Flower")


if __name__ == "__main__":
    main()
