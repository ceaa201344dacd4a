"""Who uses which command, and what a command line looks like, for the help of each."""

from typing import Final

PERSONAS: Final[dict[str, tuple[str, ...]]] = {
    "Researchers: experiments on this machine": (
        "new",
        "init",
        "config",
        "privacy",
        "simulate",
        "sweep",
        "compare",
        "predict",
        "export",
        "stats",
        "data",
    ),
    "Operators and sites: a federation of several machines": ("provision", "server", "client", "watch", "doctor"),
    "Auditors and owners of data: what was promised and spent": ("audit", "budget"),
}
"""The commands by the person who uses them; the help lists them so. One that is in none is listed first."""

EXAMPLES: Final[dict[str, str]] = {
    "new": "fedtrain new my-app --task table",
    "init": "fedtrain init experiment.toml --set federation.clients=5",
    "config check": "fedtrain config check experiment.toml --set privacy.epsilon=4 --plan",
    "privacy plan": "fedtrain privacy plan -c experiment.toml --set federation.rounds=50",
    "simulate": "fedtrain simulate -c experiment.toml --set privacy.epsilon=4 --out runs/first",
    "sweep": "fedtrain sweep experiment.toml --over privacy.epsilon=1,2,4 --out sweeps/first",
    "compare": "fedtrain compare runs/plain runs/private --csv runs.csv --plot runs.svg",
    "predict": "fedtrain predict runs/first --data new.csv --out predictions.csv",
    "export": "fedtrain export runs/first --out models/first",
    "data schema": "fedtrain data schema patients.csv --target ill --out schema.toml",
    "watch": "fedtrain watch runs/first",
    "stats": "fedtrain stats columns.toml --out runs/columns",
    "audit": "fedtrain audit runs/first/report.json --roster roster.json --html audit.html",
    "budget": "fedtrain budget runs/first",
    "provision init": "fedtrain provision init federation --address fl.example.org:9092",
    "provision add": "fedtrain provision add federation north",
    "provision admit": "fedtrain provision admit federation north request-north.json",
    "provision revoke": "fedtrain provision revoke federation north",
    "provision rotate-server": "fedtrain provision rotate-server federation",
    "provision readdress": "fedtrain provision readdress federation --address fl.example.net:9443",
    "provision renew-ca": "fedtrain provision renew-ca federation",
    "provision list": "fedtrain provision list federation",
    "client init": "fedtrain client init north",
    "client rotate": "fedtrain client rotate north",
    "client follow": "fedtrain client follow north directions.json",
    "client data": "fedtrain client data north",
    "client approve": "fedtrain client approve north app.fab",
    "client up": "fedtrain client up north",
    "client status": "fedtrain client status north",
    "server up": "fedtrain server up server",
    "server run": "fedtrain server run server --config experiment.toml",
    "server status": "fedtrain server status server --watch",
    "server runs": "fedtrain server runs server",
    "server logs": "fedtrain server logs server first",
    "server stop": "fedtrain server stop server first",
    "server bundle": "fedtrain server bundle --out app.fab",
    "doctor": "fedtrain doctor north",
}
"""A command line of each command."""
