"""Experiments that sum one vector of each record, once: statistics and least squares."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedtrain.config.experiment import Experiment


def check_one_sum(experiment: "Experiment") -> None:
    """Refuse settings that do not go with one sum over all records, where the experiment is about one.

    Raises:
        ValueError: it names the setting, and the value that it is to have.
    """
    task = experiment.task
    if experiment.training.solver == "least-squares":
        _check(experiment, 'training.solver = "least-squares"')
    if task.name == "statistics":
        _check(experiment, 'task.name = "statistics"')
    elif task.columns is not None or task.bins:
        raise ValueError(
            f'task.columns and task.bins are for task.name = "statistics", and it is "{task.name}"; unset them'
        )


def _check(experiment: "Experiment", what: str) -> None:
    """Refuse what one sum over all records cannot be had with.

    Args:
        experiment: the experiment.
        what: the setting that asks for the sum, in words.

    Raises:
        ValueError: it names the setting, and the value that it is to have.
    """
    training, privacy, federation = experiment.training, experiment.privacy, experiment.federation
    if privacy.mode != "record":
        raise ValueError(
            f'{what} sums one vector of each record with noise, and privacy.mode = "{privacy.mode}" adds none for '
            'single records; set privacy.mode = "record"'
        )
    needed: dict[str, tuple[object, object]] = {
        "federation.rounds": (federation.rounds, 1),
        "privacy.sampling_rate": (privacy.sampling_rate, 1.0),
        "privacy.clip_norm": (privacy.clip_norm, 1.0),
        "server.strategy": (experiment.server.strategy, "FedAvg"),
        "training.optimizer": (training.optimizer, "sgd"),
        "training.momentum": (training.momentum, 0.0),
        "training.weight_decay": (training.weight_decay, 0.0),
        "training.warmup_rounds": (training.warmup_rounds, 0),
        "training.local_steps": (training.local_steps or 1, 1),
        "training.local_epochs": (training.local_epochs or 1.0, 1.0),
        "training.augmentations": (training.augmentations, 1),
        "task.augment": (experiment.task.augment, False),
    }
    for name, (given, only) in needed.items():
        if given != only:
            shown = str(only).lower() if isinstance(only, bool) else f'"{only}"' if isinstance(only, str) else only
            raise ValueError(
                f"{name} = {given!r} is not for {what}, which takes one step over each record; set {shown}"
            )
    if training.solver == "least-squares" and experiment.task.model not in {None, "linear"}:
        raise ValueError(
            f'task.model = "{experiment.task.model}" is not fitted by training.solver = "least-squares", which fits a '
            "linear layer on the inputs; unset it"
        )
