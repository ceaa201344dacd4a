"""Forged reports of models with frozen weights that every machine has."""

import pytest

from fedtrain.config.sections import ADAPTED

ORIGIN = f"model.safetensors of a package; fitted on {ADAPTED['minilm-lora']}"
PUBLIC = {"origin": ORIGIN, "digest": "a" * 64, "parameters": 100, "sent_bytes": 40, "whole_bytes": 440}
BUILT_IN = {"task.name": "text", "task.model": "minilm-lora", "task.encoder": "minilm-tokens"}
OWN = {"task.name": "own_adapters:Notes"}


def told(world, honest, task, public):
    body = {**honest, "config": {**honest["config"], **task}, "model": dict(honest["model"])}
    if public is not None:
        body["model"]["public"] = public
    return world.closed(body)


def found(judge, world, report):
    return judge(report, world.roster)[1]["configuration"].detail


@pytest.mark.parametrize(
    ("task", "public", "problem"),
    [
        ({}, PUBLIC, "has none by the configuration"),
        (BUILT_IN, None, 'task.model = "minilm-lora" has public weights, and the report names none'),
        (BUILT_IN, {**PUBLIC, "origin": "a book; fitted on nothing at all"}, "have another origin in the report"),
        (BUILT_IN, {**PUBLIC, "origin": f"{ORIGIN}. It was not"}, "have another origin in the report"),
        (BUILT_IN, {**PUBLIC, "sent_bytes": 440}, "has 100 public weights, and is 440 bytes with them and 440 without"),
        (OWN, {**PUBLIC, "parameters": 10_000}, "has 10000 public weights, and is 440 bytes with them and 40 without"),
    ],
)
def test_public_weights_that_the_configuration_does_not_have_are_refuted(task, public, problem, world, honest, judge):
    assert problem in found(judge, world, told(world, honest, task, public))


@pytest.mark.parametrize(("task", "public"), [({}, None), (BUILT_IN, PUBLIC), (OWN, PUBLIC), (OWN, None)])
def test_public_weights_that_agree_with_the_configuration_are_not(task, public, world, honest, judge):
    detail = found(judge, world, told(world, honest, task, public))
    assert "public weights" not in detail
    assert "bytes with them" not in detail
