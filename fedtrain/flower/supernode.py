"""Flower's SuperNode, which runs the app bundles that its site has approved, and no others, and looks often in a round.

The server sends a node the code to run. Flower can check signatures of its own hub on it, at one place; this check
takes that place. Where Flower's source is not the one that this was written for, the SuperNode does not start: a check
that is never reached would be worse than none. Run as ``python -m fedtrain.flower.supernode APPROVED ARGUMENTS...``.
"""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from flwr.app import Error
from flwr.common.constant import ErrorCode
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run

from fedtrain.errors import AppError, FedtrainError
from fedtrain.flower.looks import Looks
from fedtrain.machines.bundles import approved, is_approved

# What fetches, checks, stores and hands on a bundle: SHA-256 of the source of each, which is the same in Flower
# 1.41.0 and 1.42.0.
_PINNED = {
    "flwr.supernode.start_client_internal": {
        "start_client_internal": "9e89a6eb68fbec6821e817cd2c09f7894fc7b0f5725c2365b19a7122307f11f3",
        "_pull_and_store_message": "eaf5d0e36dc34e4cf46a490511d077ac55cc8edbbcdbe938c1f6dbcb758628be",
        "_verify_fab": "dc3eb78d803b8fe9a65bc704e17da8b58e9f43020b43bf2ba0ba4812483634aa",
        "_init_connection": "800f9aba73646ea2c953bb5d8b7c0ae95ad33735fa522621787bbab48d300990",
    },
    "flwr.supernode.cli.flower_supernode": {
        "flower_supernode": "e263e10452076b0062e28433cca5d75a552a8a32635ac38a0101d7678231ddaf",
    },
    "flwr.supercore.corestate.in_memory_corestate": {
        "InMemoryCoreState.store_fab": "d509fb942066d5dad71912e0fb97b77071fa92049099ad026ccdde61c5479b16",
        "InMemoryCoreState.get_fab": "c857443a7d00ced030910a8f7f34303ad1a86fd8457eef69f2a6752774d3684e",
    },
    "flwr.supernode.servicer.runtime.runtime_handlers": {
        "pull_task_input": "035e6c69a7cffcad980d6a38af68941151a7f6979031638d7cb28c5431df4d3d",
    },
}
_CHECKED = "the site checks it"


def refuse_other_source(pinned: dict[str, dict[str, str]] | None = None) -> None:
    """Refuse to go on where Flower's source differs from the one that the check was written for.

    Raises:
        AppError: likewise, with the functions that differ.
    """
    different = [
        f"{module}.{name}"
        for module, functions in (_PINNED if pinned is None else pinned).items()
        for name, digest in functions.items()
        if _source_digest(module, name) != digest
    ]
    if different:
        raise AppError(
            f"this SuperNode is not started: its bundles are checked inside of Flower, and these parts of it are "
            f"not those of Flower 1.41.0 and 1.42.0: {', '.join(different)}. Install one of these versions"
        )


def _source_digest(module: str, name: str) -> str | None:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return sha256(inspect.getsource(found).encode()).hexdigest()
    except (ImportError, AttributeError, OSError, TypeError):
        return None


@contextmanager
def checking(approved_list: Path) -> Iterator[None]:
    """Let the SuperNode that this process starts run approved bundles alone, and look for messages often in a round.

    Args:
        approved_list: the list of the site, which is read at each check.

    Raises:
        AppError: as `refuse_other_source`.
    """
    refuse_other_source()
    internal = importlib.import_module("flwr.supernode.start_client_internal")
    command = importlib.import_module("flwr.supernode.cli.flower_supernode")
    connect, start = internal._init_connection, internal.start_client_internal  # noqa: SLF001 - Flower has no seam here
    looks = Looks()

    @contextmanager
    def connected(*arguments: Any, **named: Any) -> Iterator[tuple[Any, ...]]:
        with connect(*arguments, **named) as (node, receive, send, get_run, get_fab, *rest):
            heard, sent = _noting(receive, looks), _noting(send, looks)
            yield node, heard, sent, _naming(get_run, approved_list), _marking(get_fab), *rest

    def verified(fab: Fab, _trusted: dict[str, str]) -> bool:
        digest = sha256(fab.content).hexdigest()
        try:
            if is_approved(approved_list, fab.content):
                return True
            reason = f"the site has not approved the bundle {digest}: it is looked at with fedtrain client approve"
        except FedtrainError:
            reason = f"the site cannot tell whether it has approved the bundle {digest}"
        vars(internal)["FAB_VERIFICATION_ERROR"] = Error(ErrorCode.INVALID_FAB, reason)
        return False

    def started(**named: Any) -> None:
        # Flower checks nothing without entities that are trusted; which ones is up to the check.
        start(**{**named, "trusted_entities": {_CHECKED: _CHECKED}})

    patches: dict[tuple[Any, str], Any] = {
        (internal, "time"): looks.time,
        (internal, "_init_connection"): connected,
        (internal, "_verify_fab"): verified,
        (command, "start_client_internal"): started,
    }
    before = {place: getattr(*place) for place in patches}
    for (module, name), function in patches.items():
        setattr(module, name, function)
    try:
        yield
    finally:
        for (module, name), function in before.items():
            setattr(module, name, function)


def _noting(exchange: Callable[..., Any], looks: Looks) -> Callable[..., Any]:
    """Note when a message came, or was sent: the next may follow soon."""

    def noted(*arguments: Any) -> Any:
        if (found := exchange(*arguments)) is not None:
            looks.found()
        return found

    return noted


def _naming(get_run: Callable[[int], Run], approved_list: Path) -> Callable[[int], Run]:
    """Let the bundle say what app it is. Flower makes a path of what the server says, and runs what is there."""

    def named(run_id: int) -> Run:
        run = get_run(run_id)
        try:
            found = [bundle for bundle in approved(approved_list) if bundle.sha256 == run.fab_hash]
        except FedtrainError:
            found = []  # the check of the bundle says so
        if not found:
            return run
        app, _, version = found[0].name.rpartition(" ")
        return replace(run, fab_id=app, fab_version=version)

    return named


def _marking(get_fab: Callable[[str, int], Fab]) -> Callable[[str, int], Fab]:
    # Flower refuses a bundle to which the SuperLink added nothing from Flower's hub, before it asks the check.
    return lambda digest, run: replace(get_fab(digest, run), verifications={"valid_license": _CHECKED})


def main() -> None:
    """Start the SuperNode with the arguments that are left, and end this process with it.

    Flower returns, or raises, where it gives the connection up (after an error of TLS, say), and leaves a thread that
    would keep the process alive, so that it would look as if it still served.
    """
    approved_list = Path(sys.argv.pop(1))
    try:
        with checking(approved_list):
            importlib.import_module("flwr.supernode.cli.flower_supernode").flower_supernode()
    except FedtrainError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_status)
    except Exception:  # noqa: BLE001 - of Flower
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
