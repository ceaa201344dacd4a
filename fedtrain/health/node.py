"""All checks of a node's folder, in the order in which one depends on the other.

Of a site: whether its file, its ledgers, its data and the training on them are in order, and what is left of its
budgets.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import Timeout

from fedtrain.crypto import Identity
from fedtrain.data.site import open_site, read_site_data
from fedtrain.errors import FedtrainError, KeyFileError, LedgerError, SiteError
from fedtrain.health.check import Check, fails, ok, warns
from fedtrain.health.directions import lost_advice
from fedtrain.health.keys import (
    admitted,
    authorities_hold,
    closed,
    identity,
    membership,
    read_certificates,
    requested,
    supernode_key,
)
from fedtrain.health.machine import free_space, installed, writable
from fedtrain.health.network import reach
from fedtrain.health.rehearsal import rehearse, task_names
from fedtrain.ledger import Ledger, SitePolicy, dataset_key, read_policy, spent
from fedtrain.machines.bundles import approved
from fedtrain.machines.federation import read_directions
from fedtrain.machines.folders import NodeFolder
from fedtrain.machines.following import trusts
from fedtrain.machines.reading import called
from fedtrain.report.numbers import upper

_SHOWN = 12  # letters of a digest
_TIMEOUT = 2.0  # seconds for a client that is just writing


def node_checks(node: NodeFolder, ask: Callable[[NodeFolder], Check]) -> Iterator[Check]:
    """Check a node's folder, what is installed, the way to the server, and training on the site's data.

    No ledger entry is made, and nothing of the data leaves.

    Args:
        node: the folder of the node.
        ask: asks the server whether it lets the node in; called if the server is reached and the keys can be used.
    """
    yield installed()
    yield closed(node.path)
    yield writable(node.path)
    yield free_space(node.path)
    usable = True
    for check in _keys(node):
        usable &= check.status != "fails"
        yield check
    yield from directed(node)
    reached, checks = _reached(node)
    yield from checks
    if usable and reached is not None:
        yield ask(reached)
    yield from site(node)


def directed(node: NodeFolder) -> Iterator[Check]:
    """Check the directions of a node, if it has any, and say which addresses it tries."""
    found = read_directions(node.directions, node.federation)
    if found is None:
        return
    directions, _ = found
    if not trusts(node, directions):
        yield fails(
            "directions", f"{node.ca.name} is not what {node.directions.name} names; fedtrain client up writes it anew"
        )
        return
    detail = f"version {directions.version}, signed by the operator: the server is at {directions.address}"
    for former in directions.former:
        tried = "is also tried until" if datetime.now(UTC) < former.until else "was also tried until"
        detail += f"; {former.address} {tried} {former.until:%Y-%m-%d}"
    retires = directions.authorities[-1].retires
    if retires is not None:
        detail += f"; the CA is being renewed, and the former one retires on {retires:%Y-%m-%d}"
    yield ok("directions", detail)


def _reached(node: NodeFolder) -> tuple[NodeFolder | None, list[Check]]:
    """Check the way to the server at each address that the node tries.

    Returns:
        The node with the address that it connects to, ``None`` if none is reached; and what to say.
    """
    routes = [replace(node, federation=route) for route in node.federation.routes(datetime.now(UTC))]
    tried = [(route, list(reach(route.federation, route.ca))) for route in routes]
    works = [(route, checks) for route, checks in tried if all(check.status != "fails" for check in checks)]
    if not works:
        return None, [*tried[0][1], warns("directions", f"the server is not reached; {lost_advice(node)}")]
    chosen, checks = works[0]
    said = list(checks)
    for route, others in tried:
        if route is chosen:
            continue
        failed = [check for check in others if check.status == "fails"]
        newest = "the newest address" if route is routes[0] else "a former address"
        state = f"is not reached ({failed[0].name}: {failed[0].detail})" if failed else "is reached, too"
        note = f"{newest}, {route.federation.address}, {state}; this node connects to {chosen.federation.address}"
        said.append(warns("address", note) if route is routes[0] else ok("address", note))
    return chosen, said


def _keys(node: NodeFolder) -> Iterator[Check]:
    try:
        advice = "the operator renews it: fedtrain provision renew-ca"
        yield from authorities_hold(read_certificates(node.ca), datetime.now(UTC), advice=advice)
    except KeyFileError as error:
        yield fails("CA", f"{error}; copy ca.pem from the kit again")
    check, own = identity(node.identity, made_by="fedtrain client init")
    yield check
    check, supernode = supernode_key(node)
    yield check
    if own is not None and supernode is not None:
        yield requested(node, own, supernode)
    check, found = membership(node.membership, node.federation)
    yield check
    if own is not None and supernode is not None and found is not None:
        yield admitted(node, found, own, supernode)


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
    return ok("bundles", "approved: " + ", ".join(f"{called(one.name)} ({one.sha256[:_SHOWN]})" for one in found))


def _data(node: NodeFolder, policy: SitePolicy) -> Iterator[Check]:
    try:
        data = read_site_data(node.path)
        records = open_site(data, folder=node.path)
    except FedtrainError as error:
        yield fails("data", str(error))
        return
    info, train = records.info, records.train
    target = {
        "class": f"in {len(info.classes)} classes",
        "labels": f"with {len(info.classes)} labels",
        "number": "with a number",
        "text": "whose text is the target",
    }
    found = f"{len(train)} records of kind {info.kind}, shape {info.shape}, {target[data.target]}"
    if data.as_source().names_needed:
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


def ledgers(folder: Path, policy: SitePolicy) -> Iterator[Check]:
    """Verify each ledger in a node's folder. What a crash tore is completed, as at every opening; no entry is made."""
    files = sorted((folder / "ledgers").glob("*.jsonl"))
    key = folder / "dataset.key"
    if files and not key.exists():
        yield fails(
            "ledgers",
            f"{key} is gone, and with a new one every data set would have a new budget; put it back from a copy",
        )
        return
    if not files:
        yield ok("ledgers", "nothing was spent yet")
        return
    try:
        dataset_key(key)
        own = Identity.load(folder / "identity.pem")
    except KeyFileError as error:
        yield fails("ledgers", f"not verified: {error}")
        return
    for file in files:
        yield _ledger(file, own, policy)


def _ledger(file: Path, own: Identity, policy: SitePolicy) -> Check:
    name = f"data set {file.stem[:_SHOWN]}"
    try:
        with Ledger.open(file.parent, dataset=file.stem, identity=own, timeout=_TIMEOUT) as ledger:
            entries = ledger.entries
        epsilon = spent(entries, policy.delta)
    except LedgerError as error:
        if isinstance(error.__cause__, Timeout):
            return warns(name, "not verified: a run is writing its ledger; try again later")
        return fails(name, str(error))
    except FedtrainError as error:
        return fails(name, str(error))
    left = f"epsilon {upper(epsilon)} of {policy.epsilon:g} is spent, at delta {policy.delta:g}"
    if epsilon >= policy.epsilon:
        return warns(name, f"{len(entries)} entries hold; {left}: this data set trains in no further round")
    return ok(name, f"{len(entries)} entries hold; {left}")
