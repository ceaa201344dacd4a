"""Reports of runs of any size, as a run would leave them."""

import json
import math
from statistics import median_high

import numpy as np
import pytest

from fedtrain.privacy import PrivacyPlan, PrivacySpec
from fedtrain.report import SCHEMA, Report

RUN = "7a" * 32

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
                "sealed": True,
                "secagg": None,
                "clip_norm": 1.0,
                "learning_rate": 0.25 * (1 + math.cos(math.pi * number / rounds)),
                "seconds": 1.1 + float(generator.random()),
            }
        )
    return log


def plan(rounds):
    """Calibrate nothing: a plan with the noise that the reports here were made with."""
    spec = PrivacySpec(
        unit="record",
        neighbouring="add or remove one record",
        epsilon=8.0,
        delta=1e-5,
        clip_norm=1.0,
        sampling_rate=0.08,
        divisor=32,
        population=400.0,
        steps_per_round=12,
        rounds=max(rounds, 1),
    )
    return PrivacyPlan(spec=spec, noise_multiplier=1.0853)


def privacy(log, clients, budget):
    events = [
        {
            "client": client,
            "run": RUN,
            "round": entry["round"],
            "sampling_rate": 0.08,
            "noise_multiplier": 1.0853,
            "steps": 12,
        }
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
        point = {"round": entry["round"], "max": max(epsilons), "median": median_high(epsilons)}
        curve.append({**point, "clients": epsilons if clients <= 40 else []})
    largest = max(spent(len(charged)) for charged in rounds.values())
    return {
        "mode": "record",
        "epsilon": largest,
        "delta": 1e-5,
        "budget": budget,
        "unit": "record",
        "neighbouring": "add or remove one record",
        "adversaries": [
            {"who": "whoever gets the model", "sees": "the final model", "bounded": True, "by": "epsilon"},
            {"who": "the network", "sees": "every message", "bounded": False, "by": "nothing is encrypted"},
        ],
        "trusted": ["each client with its own records"],
        "mechanism": {
            "name": "Poisson-sampled Gaussian",
            "sampling_rate": 0.08,
            "noise_multiplier": 1.0853,
            "clip_norm": 1.0,
            "divisor": 32.0,
            "population": 400.0,
            "steps_per_round": 12,
            "rounds": max(len(log), 1),
            "adaptive_clipping": None,
            "plan_digest": plan(len(log)).digest,
            "plan": plan(len(log)).as_data(),
        },
        "sampling": {
            "scheme": "Poisson, records",
            "rate": 0.08,
            "amplification": True,
            "reason": "each client draws in secret",
        },
        "accountants": [
            {"name": "PLD", "version": "0.6.0", "role": "claim", "epsilon": largest, "note": None},
            {"name": "PRV", "version": "1.6.0", "role": "second opinion", "epsilon": 1.01 * largest, "note": None},
        ],
        "composition": "every step of every round is composed for each client; over clients with disjoint records "
        "the largest counts",
        "noise": "seeded",
        "random_source": "seeded generator, for simulation only",
        "tuning": "not declared",
        "statement": "Each record of each client is protected against everyone, the server included: nobody who sees "
        "what the clients send, or the model, can tell with confidence whether any one record was used.",
        "accesses_not_covered": ["The label histogram in this report, which a simulation reads directly."],
        "not_covered": [
            "The number of clients and which of them took part in which round.",
            "Several records of one person: their epsilons add up.",
        ],
        "clients": [
            {
                "client": client,
                "epsilon": spent(len(charged)),
                "run_epsilon": spent(len(charged)),
                "budget": None,
                "rounds": charged,
                "steps": 12 * len(charged),
                "dataset": "5e" * 32,
                "entries": 2 * len(charged),
                "unanswered": [],
            }
            for client, charged in rounds.items()
        ],
        "events": events,
        "curve": curve,
    }


def no_privacy():
    nothing = ("epsilon", "delta", "budget", "unit", "neighbouring", "mechanism", "sampling", "noise")
    lists = ("adversaries", "trusted", "accountants", "accesses_not_covered", "not_covered")
    return {
        "mode": "none",
        **dict.fromkeys(nothing),
        **{name: [] for name in (*lists, "clients", "events", "curve")},
        "composition": "none",
        "random_source": "none",
        "tuning": "not declared",
        "statement": "The model may reveal the records that it was trained on.",
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
        "run": RUN,
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
        "software_digests": {"fedtrain": "c3" * 32},
        "proof": {"roster": {}, "record": [], "ledgers": []} if private else None,
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
