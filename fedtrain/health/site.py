"""Whether a site's file, its data and the training on them are in order."""

from collections.abc import Iterator

from fedtrain.data.site import open_site, read_site_data
from fedtrain.errors import FedtrainError, SiteError
from fedtrain.health.check import Check, fails, ok, warns
from fedtrain.health.ledgers import ledgers
from fedtrain.health.rehearsal import rehearse, task_names
from fedtrain.ledger import SitePolicy, read_policy
from fedtrain.machines.bundles import approved
from fedtrain.machines.node import NodeFolder

_SHOWN = 12  # letters of a bundle's digest


def site(node: NodeFolder) -> Iterator[Check]:
    """Check the site file, the approved bundles, the ledgers, the data, and one private step on them."""
    try:
        policy = read_policy(node.site)
    except SiteError as error:
        yield fails("site file", str(error))
        return
    yield _limits(policy)
    yield _bundles(node)
    yield from ledgers(node.path, policy)
    yield from _data(node, policy)


def _limits(policy: SitePolicy) -> Check:
    detail = f"budget epsilon {policy.epsilon:g} at delta {policy.delta:g}; modes {', '.join(policy.modes)}"
    if "none" in policy.modes:
        return warns(
            "site file", f"{detail}: the site also trains without privacy; if that is not meant, take none out"
        )
    return ok("site file", detail)


def _bundles(node: NodeFolder) -> Check:
    try:
        found = approved(node.approved)
    except SiteError as error:
        return fails("bundles", f"{error}; approve them anew: fedtrain client approve {node.path} BUNDLE")
    if not found:
        return warns(
            "bundles",
            f"none is approved, so that every run is refused; run: fedtrain client approve {node.path} BUNDLE",
        )
    return ok("bundles", "approved: " + ", ".join(f"{one.name} ({one.sha256[:_SHOWN]})" for one in found))


def _data(node: NodeFolder, policy: SitePolicy) -> Iterator[Check]:
    try:
        data = read_site_data(node.path)
        records = open_site(data, folder=node.path)
    except FedtrainError as error:
        yield fails("data", str(error))
        return
    info, train = records.info, records.train
    target = {"class": f"in {len(info.classes)} classes", "labels": f"with {len(info.classes)} labels"}
    found = f"{len(train)} records of kind {info.kind}, shape {info.shape}, {target.get(data.target, 'with a number')}"
    if data.classes is None and data.target != "number":
        yield fails(
            "classes",
            "[data] in site.toml names none, and every run is refused: add classes, as the experiments have them",
        )
    if policy.delta * len(train) >= 1:
        yield warns(
            "data",
            f"{found}; the budget's delta of {policy.delta:g} is not below 1/{len(train)}, and so would allow "
            "publishing a record outright: lower [budget] delta in site.toml",
        )
    else:
        yield ok("data", found)
    for name in task_names(policy, info):
        yield rehearse(name, info, train)
