"""What becomes of a run of any app whose clients do nothing."""

import logging
import os
import subprocess
import sys
from textwrap import dedent

import pytest

from fedtrain.engine.process import thread_variables
from fedtrain.engine.requests import Tally
from fedtrain.errors import RunError
from fedtrain.flower.simulation import preloaded, refuse_fruitless

FAILS = Tally(contents=0, errors=6, last_error="Traceback\nValueError: planted\n")
WORKS = Tally(contents=1, errors=5, last_error="Traceback\nValueError: planted\n")


@pytest.mark.parametrize(
    ("tallies", "said"),
    [
        ({"train": FAILS}, "no client trained: all 6 messages of type train were answered with errors"),
        ({"train": FAILS, "evaluate": WORKS}, "no client trained: all 6 messages of type train"),
        ({"query": WORKS, "evaluate": FAILS, "train": FAILS}, "no client trained: all 6 messages of type train"),
        ({"query": WORKS, "train.head": FAILS}, "no client trained: all 6 messages of type train.head"),
        ({"evaluate": FAILS}, "no client answered: all 6 messages of type evaluate"),
    ],
)
def test_a_run_in_which_no_client_trained_has_failed(tallies, said):
    with pytest.raises(RunError) as failed:
        refuse_fruitless(tallies)
    assert said in str(failed.value)
    assert str(failed.value).endswith("The last one:\nTraceback\nValueError: planted")


@pytest.mark.parametrize(
    ("tallies", "warnings"),
    [
        ({}, 0),
        ({"train": Tally()}, 0),
        ({"train": WORKS, "evaluate": WORKS}, 0),
        ({"train.head": FAILS, "train.body": WORKS}, 1),
        ({"train": WORKS, "evaluate": FAILS}, 1),
    ],
)
def test_messages_of_one_type_that_all_failed_are_a_warning(tallies, warnings, caplog):
    with caplog.at_level(logging.WARNING, logger="fedtrain"):
        refuse_fruitless(tallies)
    assert len(caplog.records) == warnings
    assert all("all 6 messages of type" in text and "planted" in text for text in caplog.messages)


LATE = {"alembic", "dp_accounting", "fastapi", "jinja2", "matplotlib", "opacus", "scipy", "sqlalchemy", "torchmetrics"}


def printed(program):
    environment = {**os.environ, **thread_variables(1)}  # as the engine starts it
    command = [sys.executable, "-c", dedent(program)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_what_workers_are_copies_of_has_one_thread():
    program = """
        import importlib, os
        from fedtrain.flower.simulation import preloaded
        for name in preloaded("record"):
            importlib.import_module(name)
        print(len(os.listdir("/proc/self/task")))
    """
    assert printed(program) == "1\n"


def test_a_run_begins_without_what_it_needs_later():
    program = f"""
        import sys
        import fedtrain.clientapp.training, fedtrain.serverapp.run, fedtrain.training.private
        print(sorted({LATE!r} & set(sys.modules)))
    """
    assert printed(program) == "[]\n"


def test_nothing_of_ours_is_imported_for_an_app_of_somebody_else():
    assert preloaded(None) == ("torch",)
    assert "fedtrain.training.private" in preloaded("record")
    assert "fedtrain.training.private" not in preloaded("none")


def test_what_vmap_imports_is_imported_where_clients_are_stacked():
    assert "sympy" not in preloaded("none")
    program = """
        import importlib, sys, torch
        from fedtrain.flower.simulation import preloaded
        for name in preloaded("none", stacked=True):
            importlib.import_module(name)
        before = set(sys.modules)
        torch.func.vmap(torch.sin)(torch.ones(2))
        print(len(set(sys.modules) - before) < 20, "sympy" in before)
    """
    assert printed(program) == "True True\n"


@pytest.mark.parametrize("mode", ["record", "client"])
def test_workers_of_private_clients_are_copies_of_a_process_that_can_account(mode):
    assert {f"fedtrain.privacy.accounting.{name}" for name in ("pld", "rdp")} <= set(preloaded(mode))
    assert not any("accounting" in name for name in preloaded("none"))
