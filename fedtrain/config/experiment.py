"""An experiment: its sections in one typed tree, and what they must agree on.

Every field is public: nothing in it may depend on a client's data.
"""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, model_validator

from fedtrain.config.data import Data
from fedtrain.config.one_sum import check_one_sum
from fedtrain.config.privacy import Privacy, Transport
from fedtrain.config.retries import check_retries
from fedtrain.config.sections import (
    SINGLE_UPDATES,
    STRATEGY_PARAMETERS,
    Federation,
    Output,
    Section,
    Server,
    TaskConfig,
    Training,
)
from fedtrain.config.statements import Statements
from fedtrain.config.toml import Line

_SMALLEST_SUM = 2


class Experiment(Section):
    """A federated experiment."""

    name: Line = Field("experiment", description="the name in reports")
    seed: Annotated[int, Field(ge=0, lt=2**53)] = Field(0, description="seed of everything random in a simulation")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where tensors live")
    federation: Federation = Field(default_factory=Federation)
    data: Data = Field(default_factory=Data)
    task: TaskConfig = Field(default_factory=TaskConfig)
    training: Training = Field(default_factory=Training)
    privacy: Privacy = Field(default_factory=Privacy)
    transport: Transport = Field(default_factory=Transport)
    server: Server = Field(default_factory=Server)
    report: Statements = Field(default_factory=Statements)
    output: Output = Field(default_factory=Output)

    @classmethod
    def load(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read an experiment from a TOML file.

        Args:
            path: the file.
            overrides: values over the file's, nested or by dotted key, such as ``{"privacy.epsilon": 2}``; ``None``
                unsets a field that may be unset.

        Raises:
            ConfigError: the file cannot be read, or a field is unknown, has a wrong type or a value that is not
                allowed; all such fields are named.
        """
        from fedtrain.config.loading import flatten, from_flat, read_toml  # noqa: PLC0415 - it builds on this module

        return cast("Self", from_flat({**read_toml(Path(path)), **flatten(_without_none(overrides or {}))}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make an experiment from values, nested as in a file or by dotted key; all else has its default.

        >>> Experiment.from_dict({"federation": {"rounds": 3}, "privacy.mode": "none"}).federation.rounds
        3

        Raises:
            ConfigError: a field is unknown, has a wrong type or a value that is not allowed; all such fields are named.
        """
        from fedtrain.config.loading import flatten, from_flat  # noqa: PLC0415 - it builds on this module

        return cast("Self", from_flat(flatten(_without_none(values))))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_participations(self)
        if self.privacy.mode == "record":
            _check_record_privacy(self)
        else:
            _check_without_records(self)
        if self.privacy.mode == "client":
            _check_client_privacy(self)
        elif self.privacy.adaptive_clipping:
            raise ValueError(
                f'privacy.adaptive_clipping = true is for privacy.mode = "client", and it is "{self.privacy.mode}"'
            )
        _check_trust(self)
        if self.transport.secagg.enabled and (problem := aggregation_problem(self)):
            raise ValueError(problem)
        _check_stacked(self)
        check_one_sum(self)
        check_retries(self.federation, self.privacy)
        return self


def _check_stacked(experiment: Experiment) -> None:
    stacked, mode = experiment.training.stacked, experiment.privacy.mode
    if stacked > 1 and mode != "none":
        raise ValueError(
            f'training.stacked = {stacked} is for privacy.mode = "none", and it is "{mode}": how the update of a '
            "client is rounded would depend on the clients that train beside it, which no epsilon covers; leave it at 1"
        )


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the empty string, which means "not set" in a flat mapping, in the place of ``None``."""
    return {
        key: _without_none(value) if isinstance(value, Mapping) else "" if value is None else value
        for key, value in values.items()
    }


def aggregation_problem(experiment: Experiment) -> str | None:
    """Return why an experiment cannot use secure aggregation, ``None`` if it can."""
    federation, privacy, secagg = experiment.federation, experiment.privacy, experiment.transport.secagg
    if experiment.server.strategy in SINGLE_UPDATES:
        allowed = ", ".join(sorted(set(STRATEGY_PARAMETERS) - SINGLE_UPDATES))
        return (
            f'server.strategy = "{experiment.server.strategy}" needs single updates or losses, and secure aggregation '
            f"shows the server their sum alone; allowed: {allowed}; or set {_without_sums(privacy)}"
        )
    if federation.cohort < _SMALLEST_SUM:
        return (
            f"federation.cohort = {federation.cohort}, and the sum of one update is that update; secure aggregation "
            f"needs {_SMALLEST_SUM} or more"
        )
    if privacy.secret_cohorts:
        return (
            'privacy.cohorts = "poisson" relies on cohorts that nobody knows, and in secure aggregation the members of '
            f'a cohort know each other; set privacy.cohorts = "capped", or {_without_sums(privacy)}'
        )
    if privacy.mode != "none" and secagg.max_weight is not None:
        return (
            f'transport.secagg.max_weight is for privacy.mode = "none", and it is "{privacy.mode}": how many records a '
            "client has would be an access that no epsilon pays for"
        )
    if privacy.mode == "client" and secagg.bound is not None:
        return 'transport.secagg.bound is not for privacy.mode = "client", where the clipping norm is the bound'
    return None


def _without_sums(privacy: Privacy) -> str:
    return "another privacy.trust" if privacy.distributed else "transport.secagg.enabled = false"


def _check_record_privacy(experiment: Experiment) -> None:
    if experiment.privacy.sampling_rate is None:
        raise ValueError(
            'privacy.sampling_rate is not set, and privacy.mode = "record" needs it: a public constant, '
            "for example training.batch_size over the usual number of records of a client"
        )
    if experiment.server.strategy == "QFedAvg":
        raise ValueError(
            'server.strategy = "QFedAvg" needs the clients\' raw losses, which privacy.mode = "record" never sends'
        )
    task = experiment.task
    if experiment.training.augmentations > 1 and ":" not in task.name and not task.augment:
        raise ValueError(
            f"training.augmentations = {experiment.training.augmentations} would be so many equal views of each "
            "record; set task.augment, or leave it at 1"
        )


def _check_without_records(experiment: Experiment) -> None:
    training, mode = experiment.training, experiment.privacy.mode
    if training.physical_batch_size is not None:
        raise ValueError(
            f'training.physical_batch_size is for privacy.mode = "record", and it is "{mode}"; '
            "lower training.batch_size"
        )
    if training.augmentations > 1:
        raise ValueError(
            f'training.augmentations = {training.augmentations} is for privacy.mode = "record", and it is "{mode}"'
        )


def _check_client_privacy(experiment: Experiment) -> None:
    privacy, federation, strategy = experiment.privacy, experiment.federation, experiment.server.strategy
    if strategy in SINGLE_UPDATES:
        raise ValueError(
            f'server.strategy = "{strategy}" needs single updates or losses, and privacy.mode = "client" adds its '
            f"noise to their sum alone; allowed: {', '.join(sorted(set(STRATEGY_PARAMETERS) - SINGLE_UPDATES))}"
        )
    if privacy.sampling_rate is not None:
        raise ValueError(
            'privacy.sampling_rate is for privacy.mode = "record"; with "client" the rate is federation.cohort / '
            f"federation.clients = {federation.cohort / federation.clients:g}"
        )
    if privacy.cohorts == "capped":
        return
    if privacy.max_participations is not None:
        raise ValueError(
            'privacy.max_participations caps what privacy.cohorts = "poisson" draws at random, which nothing can; '
            'set privacy.cohorts = "capped"'
        )
    if federation.min_results > 1:
        raise ValueError(
            f'federation.min_results = {federation.min_results} is not allowed with privacy.cohorts = "poisson": a '
            "cohort may be small or empty by chance, and the round is then one of noise; leave it at 1"
        )


_TRUSTS = {"record": ("local", "distributed"), "client": ("central", "distributed")}


def _check_trust(experiment: Experiment) -> None:
    privacy = experiment.privacy
    if privacy.mode in _TRUSTS and privacy.trust is not None and privacy.trust not in _TRUSTS[privacy.mode]:
        allowed = " or ".join(f'"{trust}"' for trust in _TRUSTS[privacy.mode])
        raise ValueError(
            f'privacy.trust = "{privacy.trust}" does not go with privacy.mode = "{privacy.mode}"; allowed: {allowed}'
        )
    if privacy.mode == "none" and privacy.trust is not None:
        raise ValueError(
            f'privacy.trust = "{privacy.trust}" says who adds noise, and privacy.mode = "none" has none; set '
            'privacy.mode to "record" or "client"'
        )
    if privacy.distributed:
        _check_distributed(experiment)
    elif privacy.colluders is not None:
        raise ValueError(
            f'privacy.colluders = {privacy.colluders} is for privacy.trust = "distributed", where clients share the '
            "noise"
        )


def _check_distributed(experiment: Experiment) -> None:
    privacy = experiment.privacy
    if privacy.colluders is None:
        raise ValueError(
            'privacy.colluders is not set, and privacy.trust = "distributed" needs it: how many members of a cohort '
            "may tell the server their share of the noise, or add none. Epsilon holds as long as there are no more; 0 "
            "says that none does"
        )
    if problem := aggregation_problem(experiment):
        raise ValueError(problem)
    if experiment.transport.secagg.bound is not None:
        raise ValueError(
            'transport.secagg.bound is not for privacy.trust = "distributed", where the plan says how large a number '
            "can be"
        )
    if privacy.adaptive_clipping:
        raise ValueError(
            'privacy.adaptive_clipping = true is not for privacy.trust = "distributed": the count of updates that were '
            "not clipped would need shares of noise of its own; set a fixed privacy.clip_norm"
        )
    if privacy.mode == "record":
        _check_one_step(experiment)


def _check_one_step(experiment: Experiment) -> None:
    """Refuse local steps beyond one, and settings of an optimizer that takes none."""
    training, rounds = experiment.training, experiment.federation.rounds
    if training.local_epochs is not None:
        raise ValueError(
            f'training.local_epochs = {training.local_epochs:g} is not for privacy.trust = "distributed": a round is '
            f"one step over a batch that each record enters with privacy.sampling_rate = "
            f"{experiment.privacy.sampling_rate:g}; so many passes are federation.rounds = "
            f"{ceil(training.local_epochs * rounds / (experiment.privacy.sampling_rate or 1))} rounds"
        )
    if training.local_steps not in {None, 1}:
        raise ValueError(
            f'training.local_steps = {training.local_steps} is not for privacy.trust = "distributed": from the second '
            "step on, gradients depend on a step that has no noise yet, and clipping them bounds nothing of that; "
            f"{rounds} rounds of {training.local_steps} steps are federation.rounds = "
            f"{rounds * (training.local_steps or 1)} rounds of one"
        )
    unused = {
        "optimizer": training.optimizer != "sgd",
        "momentum": training.momentum > 0,
        "weight_decay": training.weight_decay > 0,
    }
    if given := [name for name, found in unused.items() if found]:
        raise ValueError(
            f"training.{given[0]} = {getattr(training, given[0])!r} would change nothing with privacy.trust = "
            '"distributed", where clients send sums of gradients and take no step; the optimizer is the server\'s: set '
            'server.strategy to "FedAvgM" (momentum) or "FedAdam"'
        )


def _check_participations(experiment: Experiment) -> None:
    most, federation = experiment.privacy.max_participations, experiment.federation
    if experiment.privacy.mode == "none" or most is None:
        return
    if most * federation.clients < federation.rounds * federation.cohort:
        raise ValueError(
            f"privacy.max_participations = {most} of {federation.clients} clients is less than federation.rounds = "
            f"{federation.rounds} of federation.cohort = {federation.cohort}; at least "
            f"{-(-federation.rounds * federation.cohort // federation.clients)} is allowed"
        )
