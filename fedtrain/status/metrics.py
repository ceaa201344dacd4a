"""Where runs and nodes stand, as Prometheus reads it. It needs the extra ``metrics``."""

from collections.abc import Iterator, Sequence
from typing import Any

_STATES = ("running", "completed", "interrupted", "failed", "gone")

# Of a run: the name of the gauge, the key of the status, and what it is.
RUN = {
    "fedtrain_round": ("round", "The round in progress, or else the last one that is complete."),
    "fedtrain_rounds": ("rounds", "Rounds of the whole run."),
    "fedtrain_rounds_done": ("done", "Rounds that are complete."),
    "fedtrain_cohort_clients": ("cohort", "Clients that were asked in the round in progress."),
    "fedtrain_answered_clients": ("answers", "Of these, how many have answered."),
    "fedtrain_round_seconds": ("seconds", "How long the round in progress has taken so far."),
    "fedtrain_left_seconds": ("left", "How long the run will still take."),
    "fedtrain_value": ("value", "The latest measurement of the run's metric."),
    "fedtrain_baseline": ("baseline", "What the best constant answer reaches of that metric."),
}

# What has the label ``noise``, too: ``seeded`` or ``secure``.
EPSILON = {
    "fedtrain_epsilon": (
        "epsilon",
        "The largest epsilon that any client has spent so far. With seeded noise, a simulation, it protects nobody.",
    ),
    "fedtrain_epsilon_budget": ("budget", "The budget of the run. With seeded noise it protects nobody."),
}

SITE = {
    "fedtrain_site_epsilon": (
        "epsilon",
        "The epsilon that a site has spent so far, over all runs. With seeded noise, a simulation, it protects nobody.",
    ),
    "fedtrain_site_epsilon_budget": ("budget", "The epsilon that a site's own budget allows over all runs."),
}


def exposition(found: dict[str, Any]) -> bytes | None:
    """Return the text that Prometheus reads; ``None`` where the extra is not installed.

    Args:
        found: what a page shows, with ``runs``, and of a server with ``nodes``.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(found))
    text: bytes = generate_latest(registry)
    return text


class _Collector:
    """Gives the metrics of one look."""

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def collect(self) -> Iterator[Any]:
        """Yield the families of metrics. What is secret or not known has no sample."""
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - an extra

        runs = [(str(run.get("run", run["name"])), run) for run in self._found["runs"]]
        of_runs = [((run,), status, status) for run, status in runs]
        of_sites = [((run, site["name"]), status, site) for run, status in runs for site in status["sites"]]
        yield from _families(GaugeMetricFamily, RUN, ["run"], [(label, found) for label, _, found in of_runs])
        for gauges, labels, known in ((EPSILON, ["run"], of_runs), (SITE, ["run", "site"], of_sites)):
            noisy = [((*label, status["noise"] or ""), found) for label, status, found in known]
            yield from _families(GaugeMetricFamily, gauges, [*labels, "noise"], noisy)
        late = GaugeMetricFamily("fedtrain_late_clients", "Clients that keep a round waiting.", labels=["run"])
        state = GaugeMetricFamily("fedtrain_run_state", "1 for the state of a run.", labels=["run", "state"])
        for run, status in runs:
            if not status["withheld"]:
                late.add_metric([run], float(len(status["late"])))
            for each in _STATES:
                state.add_metric([run, each], float(status["state"] == each))
        yield from (late, state)
        yield from self._nodes(GaugeMetricFamily)

    def _nodes(self, family: Any) -> Iterator[Any]:
        if "nodes" not in self._found:
            return
        up = family("fedtrain_server_up", "Whether the server is up, and its SuperLink answers.")
        up.add_metric([], float(self._found["up"] and self._found["answers"]))
        node = family("fedtrain_node_connected", "Whether a node is connected.", labels=["node"])
        for each in self._found["nodes"]:
            node.add_metric([each["name"]], float(each["state"] == "connected"))
        yield from (up, node)


def _families(
    family: Any,
    gauges: dict[str, tuple[str, str]],
    labels: list[str],
    known: Sequence[tuple[tuple[str, ...], dict[str, Any]]],
) -> Iterator[Any]:
    """Yield a family for each gauge, with a sample for each of what is known that has its key."""
    for name, (key, meaning) in gauges.items():
        made = family(name, meaning, labels=labels)
        for label, found in known:
            if found[key] is not None:
                made.add_metric(label, float(found[key]))
        yield made
