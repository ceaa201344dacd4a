"""Reports of runs of any size, as a run would leave them."""

import json
import math

import numpy as np
import pytest

from fedtrain.report import SCHEMA, Report

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def evaluation(number, rounds, classes, records, generator):
    """Draw a confusion matrix that gets better with the rounds, and measure it."""
    skill = 0.12 + 0.85 * (1 - math.exp(-4 * number / max(rounds, 1)))
    odds = (1 - skill) * generator.dirichlet(np.ones(len(classes)), len(classes)) + skill * np.eye(len(classes))
    confusion = np.stack([generator.multinomial(records // len(classes), row) for row in odds])
    hits, called, true = np.diag(confusion), confusion.sum(0), confusion.sum(1)
    precision, recall = hits / np.maximum(called, 1), hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(called + true, 1)
    return {
        "round": number,
        "loss": 2.3 * (1 - skill) + 0.08,
        "accuracy": float(hits.sum() / max(confusion.sum(), 1)),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(f1.mean()),
        "per_class": {"precision": precision.tolist(), "recall": recall.tolist(), "f1": f1.tolist()},
        "confusion": confusion.tolist(),
        "calibration_error": 0.03 * (2 - skill),
        "records": int(confusion.sum()),
    }


def round_log(rounds, clients, cohort, generator):
    log = []
    for number in range(1, rounds + 1):
        asked = sorted(generator.choice(clients, cohort, replace=False).tolist())
        lost = [client for client in asked if generator.random() < 0.03]
        reasons = ("no answer within 600 s", "the update has a number that is not finite")
        log.append(
            {
                "round": number,
                "cohort": asked,
                "completed": [client for client in asked if client not in lost],
                "dropped": [{"client": client, "reason": reasons[client % 2]} for client in lost],
                "learning_rate": 0.25 * (1 + math.cos(math.pi * number / rounds)),
                "seconds": 1.1 + float(generator.random()),
            }
        )
    return log


def privacy(log, clients, budget):
    events = [
        {"client": client, "round": entry["round"], "sampling_rate": 0.08, "noise_multiplier": 1.0853, "steps": 12}
        for entry in log
        for client in entry["cohort"]
    ]
    rounds = {client: [] for client in range(clients)}
    curve = []
    most = max(sum(client in entry["cohort"] for entry in log) for client in range(clients)) if log else 1
    spent = lambda times: 0.9 * budget * math.sqrt(times / most)
    for entry in log:
        for client in entry["cohort"]:
            rounds[client].append(entry["round"])
        epsilons = [spent(len(charged)) for charged in rounds.values()]
        curve.append({"round": entry["round"], "max": max(epsilons), "median": float(np.median(epsilons))})
    return {
        "mode": "record",
        "epsilon": max(spent(len(charged)) for charged in rounds.values()),
        "delta": 1e-5,
        "budget": budget,
        "unit": "record",
        "neighbouring": "add or remove one record",
        "mechanism": {
            "name": "Poisson-sampled Gaussian",
            "sampling_rate": 0.08,
            "noise_multiplier": 1.0853,
            "clip_norm": 1.0,
            "steps_per_round": 12,
            "expected_batch_size": 32.0,
        },
        "accountant": "dp-accounting PLD, pessimistic",
        "random_source": "seeded generator, for simulation only",
        "composition": "every step of every round is composed for each client; over clients with disjoint records "
        "the largest counts",
        "statement": "Each record of each client is protected against everyone, the server included: nobody who sees "
        "what the clients send, or the model, can tell with confidence whether any one record was used.",
        "not_covered": [
            "The number of clients and which of them took part in which round.",
            "Several records of one person: their epsilons add up.",
            "The label histogram in this report, which a simulation reads directly.",
        ],
        "clients": [
            {"client": client, "epsilon": spent(len(charged)), "rounds": charged, "steps": 12 * len(charged)}
            for client, charged in rounds.items()
        ],
        "events": events,
        "curve": curve,
    }


def no_privacy():
    return {
        "mode": "none",
        "epsilon": None,
        "delta": None,
        "budget": None,
        "unit": "record",
        "neighbouring": "add or remove one record",
        "mechanism": None,
        "accountant": "none",
        "random_source": "none",
        "composition": "none",
        "statement": "The model may reveal the records that it was trained on.",
        "not_covered": [],
        "clients": [],
        "events": [],
        "curve": [],
    }


def plain_report(rounds=30, clients=10, cohort=10, classes=DIGITS, *, private=True, every=1):
    """Build the report as plain JSON data."""
    generator = np.random.default_rng(7)
    log = round_log(rounds, clients, cohort, generator)
    numbers = range(0, rounds + 1, every)
    history = [evaluation(number, rounds, classes, 10_000, generator) for number in numbers] if rounds else []
    best = max(history, key=lambda entry: entry["accuracy"], default=None)
    histogram = generator.multinomial(600, generator.dirichlet(np.full(len(classes), 0.5), clients))
    return {
        "schema": SCHEMA,
        "fedtrain": "0.1.0",
        "name": "Handwritten digits, ten hospitals",
        "created": "2026-02-03T04:05:06Z",
        "status": "completed",
        "reason": None,
        "rounds": rounds,
        "planned_rounds": rounds,
        "seconds": 73.4,
        "config": {
            "name": "Handwritten digits, ten hospitals",
            "seed": 1,
            "device": "auto",
            "federation.clients": clients,
            "federation.cohort": cohort,
            "federation.rounds": rounds,
            "data.source": "digits",
            "data.path": "",
            "data.partition.kind": "dirichlet",
            "data.partition.alpha": 0.5,
            "training.optimizer": "sgd",
            "training.learning_rate": 0.5,
            "training.momentum": 0.0,
            "training.local_epochs": "",
            "privacy.mode": "record" if private else "none",
            "privacy.epsilon": 8.0,
            "privacy.delta": 1e-05,
            "server.strategy": "FedAvg",
            "output.tensorboard": False,
        },
        "evaluation": {
            "final": history[-1] if history else None,
            "best": {"round": best["round"], "accuracy": best["accuracy"]} if best else None,
            "history": history,
        },
        "privacy": privacy(log, clients, 8.0) if private else no_privacy(),
        "data": {
            "kind": "image",
            "shape": [1, 28, 28],
            "classes": list(classes),
            "train_records": 600 * clients,
            "test_records": 10_000,
            "clients": clients,
            "histogram": histogram.tolist(),
        },
        "round_log": log,
        "model": {
            "parameters": 26_010,
            "final": {"file": "model.safetensors", "sha256": "1f" * 32},
            "best": {"file": "best.safetensors", "sha256": "a0" * 32},
        },
        "software": {"python": "3.11.9", "torch": "2.9.1", "opacus": "1.6.0", "flwr": "1.41.0"},
    }


def read(plain):
    """Read plain data as `report.json` is read."""
    return Report.model_validate_json(json.dumps(plain))


@pytest.fixture
def plain():
    return plain_report()


@pytest.fixture(scope="session")
def build():
    """Give a function that builds reports of any size as plain data."""
    return plain_report


@pytest.fixture(scope="session")
def parse():
    return read
