"""A private step on a few of the site's own records, in memory, before a server asks for one."""

import time
from dataclasses import replace

import torch

from fedtrain.config.sections import TaskConfig, Training
from fedtrain.data import ClassTarget, DataInfo, Split
from fedtrain.errors import FedtrainError
from fedtrain.health.check import Check, fails, ok, warns
from fedtrain.ledger import SitePolicy
from fedtrain.privacy import PrivacyPlan, PrivacySpec, calibrate
from fedtrain.privacy.noise import open_source
from fedtrain.tasks import build_model, build_task, move_model
from fedtrain.tasks.calls import resolve_device
from fedtrain.tasks.supervised import fitting
from fedtrain.training import Records, RoundSettings

# Weights that so much noise moved say next to nothing of so few records, and are thrown away nevertheless.
NOISE = 100.0
MOST_RECORDS = 64

_PLURAL = 2


def task_names(policy: SitePolicy, info: DataInfo) -> tuple[str, ...]:
    """Return the tasks that the site allows, or the one that fits its data if it says nothing."""
    fits = fitting(info)
    if policy.tasks is None:
        return (fits,)
    # The kit's site file allows all that are built in; those for other data are never asked for.
    return tuple(name for name in policy.tasks if name == fits or ":" in name or fits not in policy.tasks)


def rehearse(task_name: str, info: DataInfo, train: Split) -> Check:
    """Check that the task's own choice of a model can be trained privately on the records, and take one such step.

    No ledger entry is made, nothing is written, nothing leaves this process.

    Args:
        task_name: a task that the site allows.
        info: the public facts of the site's data.
        train: its records.
    """
    name = f"train {task_name}"
    if ":" in task_name:
        return warns(name, "not rehearsed: its code comes with the app that the server sends; read it before approving")
    if info.kind == "text":
        return warns(name, f"not rehearsed: {_of_texts(task_name, fitting(info))}")
    if task_name == "statistics" and info.kind == "table":
        return warns(name, "not rehearsed: an experiment names the columns, and their public bounds")
    device = resolve_device("auto")
    try:
        seconds = _step(task_name, _enough(info), train, device)
    except FedtrainError as error:
        return fails(name, str(error))
    except RuntimeError as error:  # of torch: no memory, a broken driver
        return fails(name, f"torch cannot train on {device}: {error}")
    count = min(len(train), MOST_RECORDS)
    return ok(
        name,
        f"a private step on {count} record{'s' * (count >= _PLURAL)} took {seconds:.2f} s on {device}, with noise "
        f"multiplier {NOISE:g}; it was thrown away: nothing was written, charged or sent",
    )


def _of_texts(task_name: str, fits: str) -> str:
    said = "what a model takes of a text an encoder computes, which an experiment names"
    if task_name == fits:
        return said
    return f'{said}. The task of these texts is "{fits}": add it to [policy] tasks in site.toml'


def _step(task_name: str, info: DataInfo, train: Split, device: torch.device) -> float:
    from fedtrain.training.preflight import preflight  # noqa: PLC0415 - only where it is needed
    from fedtrain.training.private import PrivateTrainer  # noqa: PLC0415 - likewise

    task = build_task(TaskConfig(name=task_name), info)
    model = move_model(build_model(task), device)
    result = preflight(model, task, info)
    records = Records(
        features=torch.from_numpy(train.features[:MOST_RECORDS].copy()),
        targets=torch.from_numpy(train.targets[:MOST_RECORDS].copy()),
    )
    settings = RoundSettings(learning_rate=0.1, proximal_mu=0.0, seed=0)
    plan, source = _plan(len(records)), open_source("secure", settings.seed)
    began = time.perf_counter()
    PrivateTrainer(config=Training(), plan=plan, source=source, preflight=result).train(model, task, records, settings)
    return time.perf_counter() - began


def _plan(records: int) -> PrivacyPlan:
    spec = PrivacySpec(
        unit="record",
        neighbouring="add or remove one record",
        epsilon=1.0,
        delta=1e-5,
        clip_norm=1.0,
        sampling_rate=1.0,
        divisor=records,
        population=float(records),
        steps_per_round=1,
        rounds=1,
    )
    return calibrate(spec, noise_multiplier=NOISE)


def _enough(info: DataInfo) -> DataInfo:
    """Return the facts with at least two classes, as those of a federation have, though a site may hold one."""
    if info.target.kind != "class" or len(info.classes) >= _PLURAL:
        return info
    return replace(info, target=ClassTarget(names=(*info.classes, "held elsewhere")))
