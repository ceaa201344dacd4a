"""What we use of Flower's private modules, one test for each: where a release has moved something, it is named.

Run on another version with ``make test-flwr``. What only a whole deployment shows is in the tests of the integration.
"""

import ast
import inspect
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.app import Error, MessageType, MetricRecord, RecordDict
from packaging.requirements import Requirement

from fedtrain.flower.grids.base import EXPIRED

ROOT = Path(__file__).parents[2]
# What Flower documents for apps.
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}


def called(*arguments, **named):
    """Check that a function takes such arguments."""
    return lambda function: inspect.signature(function).bind(*arguments, **named)


def is_there(found):
    assert found is not None


def is_(value):
    def check(found):
        assert found == value

    return check


def has(*names):
    def check(found):
        assert [name for name in names if not hasattr(found, name)] == []

    return check


def has_fields(*names):
    """Check that a message of protobuf has these fields."""

    def check(found):
        assert set(names) <= set(found.DESCRIPTOR.fields_by_name)

    return check


def is_error(found):
    assert issubclass(found, BaseException)


def is_run(found):
    run = found.create_empty(7)
    assert (run.run_id, run.override_config, run.fab_id, run.fab_version, run.fab_hash) == (7, {}, "", "", "")


def is_identity(found):
    found.run_id, found.node_id, found.task_id = 5, 6, 7
    assert (found.run_id, found.node_id, found.task_id) == (5, 6, 7)


def keeps_records(found):
    """Check the two functions that records go through to a message of protobuf, and back."""
    name = found.__name__
    module = import_module(found.__module__)
    there = getattr(module, name.replace("_from_", "_to_"))
    back = getattr(module, name.replace("_to_", "_from_"))
    record = {
        "recorddict": RecordDict({"m": MetricRecord({"n": 3})}),
        "error": Error(3, "why"),
    }.get(name.partition("_")[0])
    if record is not None:
        assert repr(back(there(record))) == repr(record)


CONTRACTS = {
    "flwr.app.exception": {"AppExitException": is_error},
    "flwr.app.message": {"make_message": called(metadata=0, content=0, error=0)},
    "flwr.cli.build": {"build_fab_from_disk": called(0), "build_fab_from_files": called({})},
    "flwr.cli.typing": {"SuperLinkConnection": called(name="", address="", root_certificates="")},
    "flwr.cli.utils": {"init_http_client_from_connection": called(0)},
    "flwr.clientapp.client_app": {"DEFAULT_ACTION": is_("default"), "LoadClientAppError": is_error},
    "flwr.clientapp.typing": {"ClientAppCallable": is_there, "Mod": is_there},
    "flwr.common.constant": {
        "ErrorCode": has(
            "UNKNOWN",
            "CLIENT_APP_RAISED_EXCEPTION",
            "CLIENT_APP_CRASHED",
            "MESSAGE_UNAVAILABLE",
            "NODE_UNAVAILABLE",
            "MOD_FAILED_PRECONDITION",
            "INVALID_FAB",
        ),
        "HEARTBEAT_PATIENCE": is_(2),
        "NUM_PARTITIONS_KEY": is_("num-partitions"),
        "PARTITION_ID_KEY": is_("partition-id"),
        "SType": has("NUMPY"),
        "SUPERLINK_NODE_ID": is_(1),
    },
    "flwr.common.serde": {
        f"{record}_record_{way}_proto": called(0) for record in ("config", "metric") for way in ("from", "to")
    }
    | {"recorddict_from_proto": keeps_records, "recorddict_to_proto": keeps_records},
    "flwr.common.serde_utils": {
        "error_from_proto": keeps_records,
        "error_to_proto": keeps_records,
        "metadata_from_proto": called(0),
        "metadata_to_proto": called(0),
    },
    "flwr.proto": {
        "message_pb2": lambda found: has_fields("metadata", "content", "error")(found.Message),
        "recorddict_pb2": lambda found: has_fields("key", "array_record", "config_record", "metric_record")(
            found.RecordDict.Item
        ),
    },
    "flwr.proto.control_pb2": {
        "ListNodesRequest": has_fields(),
        "RegisterNodeRequest": has_fields("public_key", "name"),
        "UnregisterNodeRequest": has_fields("node_id"),
    },
    "flwr.proto.fleet_pb2": {
        "ActivateNodeRequest": has_fields("public_key", "heartbeat_interval"),
        "DeactivateNodeRequest": has_fields("node_id"),
    },
    "flwr.proto.node_pb2": {"NodeInfo": has_fields("node_id", "public_key", "status")},
    "flwr.serverapp.server_app": {"LoadServerAppError": is_error},
    "flwr.serverapp.strategy.strategy_utils": {"aggregate_arrayrecords": called([], "num-examples")},
    "flwr.supercore.cli": {"flower_superexec": called()},
    "flwr.supercore.control": {"ControlHttpClient": has("ListNodes", "RegisterNode", "UnregisterNode")},
    "flwr.supercore.corestate.in_memory_corestate": {"InMemoryCoreState": has("store_fab", "get_fab")},
    "flwr.supercore.error": {
        "ApiErrorCode": has("FLEET_INVALID_HEARTBEAT_INTERVAL", "FLEET_NODE_ACTIVATION_FAILED"),
        "FlowerError": lambda found: is_(None)(found.from_json("nonsense")),
    },
    "flwr.supercore.exit.exit": {"FORCE_EXIT_TIMEOUT_SECONDS": is_there},
    "flwr.supercore.fab": {"Fab": called(hash_str="", content=b"", verifications={})},
    "flwr.supercore.object_ref": {"load_app": called("", ValueError, Path())},
    "flwr.supercore.primitives.asymmetric": {"public_key_to_bytes": called(0)},
    "flwr.supercore.run": {"Run": is_run, "RunNotRunningException": is_error},
    "flwr.supercore.superexec.executor.subprocess_executor": {"subprocess": has("Popen", "DEVNULL")},
    "flwr.supercore.superexec.run_superexec": {"time": has("sleep")},
    "flwr.supercore.task_identity": {"TaskIdentity": is_identity},
    "flwr.superlink.grid.http_grid": {"HttpGrid": has("push_messages", "pull_messages", "send_and_receive")},
    "flwr.supernode.cli": {"flwr_clientapp": called()},
    "flwr.supernode.cli.flower_supernode": {
        "flower_supernode": called(),
        "start_client_internal": is_there,
    },
    "flwr.supernode.fleet_http_client": {
        "FleetHttpClient": lambda found: (
            has("ActivateNode", "DeactivateNode", "__enter__", "__exit__")(found),
            called("", False, b"", [])(found.from_server_address),
        )
    },
    "flwr.supernode.node_auth_http_interceptor": {"NodeAuthHttpInterceptor": called(0, 0)},
    "flwr.supernode.servicer.runtime.runtime_handlers": {"pull_task_input": is_there},
    "flwr.supernode.start_client_internal": {
        "start_client_internal": lambda found: is_(True)("trusted_entities" in inspect.signature(found).parameters),
        "_init_connection": is_there,
        "_verify_fab": called(0, {}),
        "FAB_VERIFICATION_ERROR": is_there,
        "time": has("sleep"),
    },
}


def imported():
    """Return the names that we import of each module of Flower; of those that are named in a text, the module."""
    found = {}
    for file in (file for top in ("fedtrain", "server", "clients") for file in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.ImportFrom(module=str(module), level=0):
                    found.setdefault(module, set()).update(alias.name for alias in node.names)
                case ast.Import():
                    for alias in node.names:
                        found.setdefault(alias.name, set())
                case ast.Constant(value=str(module)) if module.isascii() and module.replace(".", "").isidentifier():
                    found.setdefault(module, set())
    return {module: names for module, names in found.items() if module.startswith("flwr.")}


def test_every_private_module_has_its_contract():
    found = {module: names for module, names in imported().items() if module not in PUBLIC}
    assert set(found) == set(CONTRACTS)
    assert [(module, name) for module, names in found.items() for name in names - CONTRACTS[module].keys()] == []


@pytest.mark.parametrize("module", CONTRACTS)
def test_a_private_module_has_what_we_use_of_it(module):
    found = import_module(module)
    missing = [name for name in CONTRACTS[module] if not hasattr(found, name)]
    assert missing == [], f"flwr {version('flwr')} has no {', '.join(missing)} in {module}"
    for name, check in CONTRACTS[module].items():
        try:
            check(getattr(found, name))
        except (AssertionError, TypeError, AttributeError) as error:
            pytest.fail(f"{module}.{name} of flwr {version('flwr')} is not as we use it: {error}")


def test_what_a_superlink_says_of_expired_messages_begins_as_we_know_it():
    found = import_module("flwr.server.superlink.linkstate.utils")
    for reason in (found.MESSAGE_UNAVAILABLE_ERROR_REASON, found.REPLY_MESSAGE_UNAVAILABLE_ERROR_REASON):
        assert reason.startswith(EXPIRED)
    assert not found.NODE_UNAVAILABLE_ERROR_REASON.startswith(EXPIRED)


def test_messages_of_the_types_that_we_send_can_be_made():
    assert (MessageType.TRAIN, MessageType.EVALUATE, MessageType.QUERY) == ("train", "evaluate", "query")


def test_the_version_that_is_installed_is_one_that_is_allowed():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (flower,) = [requirement for requirement in map(Requirement, dependencies) if requirement.name == "flwr"]
    assert version("flwr") in flower.specifier
