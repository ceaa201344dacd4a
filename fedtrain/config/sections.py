"""The experiment as one typed tree.

Every field is public: nothing in it may depend on a client's data. ``None`` means "not set"; in Flower's flat run
config, which has no such value, an empty string stands for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedtrain.config.modes import Mode

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

Strategy = Literal[
    "FedAvg",
    "FedAvgM",
    "FedAdam",
    "FedYogi",
    "FedAdagrad",
    "FedProx",
    "FedMedian",
    "FedTrimmedAvg",
    "Krum",
    "MultiKrum",
    "Bulyan",
    "QFedAvg",
]

_FEDOPT = frozenset({"eta", "eta_l", "beta_1", "beta_2", "tau"})
STRATEGY_PARAMETERS: dict[str, frozenset[str]] = {
    "FedAvg": frozenset(),
    "FedAvgM": frozenset({"server_learning_rate", "server_momentum"}),
    "FedAdam": _FEDOPT,
    "FedYogi": _FEDOPT,
    "FedAdagrad": frozenset({"eta", "eta_l", "tau"}),
    "FedProx": frozenset({"proximal_mu"}),
    "FedMedian": frozenset(),
    "FedTrimmedAvg": frozenset({"beta"}),
    "Krum": frozenset({"num_malicious_nodes"}),
    "MultiKrum": frozenset({"num_malicious_nodes", "num_nodes_to_select"}),
    "Bulyan": frozenset({"num_malicious_nodes"}),
    "QFedAvg": frozenset({"client_learning_rate", "q"}),
}

# What these compute is not a function of the sum of the updates.
SINGLE_UPDATES = frozenset({"FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan", "QFedAvg"})


_SMALLEST_SUM = 2


class Section(BaseModel):
    """A part of the tree: immutable, strictly typed, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Federation(Section):
    """Who takes part."""

    clients: Count = Field(10, description="clients in the federation, one partition of the data each")
    cohort: Count = Field(10, description="clients that train in a round")
    rounds: Count = Field(10, description="rounds of training")
    min_results: Count = Field(1, description="usable results a round needs; the run fails below it")
    deadline: Positive = Field(600.0, description="seconds after which a round goes on without the missing results")
    sites: str | None = Field(
        None,
        description="folder of the clients' own files (keys, ledgers, site.toml), kept over runs; "
        "default: clients/ in the run folder",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cohort > self.clients:
            raise ValueError(f"cohort = {self.cohort} is more than clients = {self.clients}")
        if self.min_results > self.cohort:
            raise ValueError(f"min_results = {self.min_results} is more than cohort = {self.cohort}")
        return self


class Partition(Section):
    """How the training records are split over the clients."""

    kind: Literal["iid", "dirichlet", "pathological", "natural"] = Field("iid", description="the partitioner")
    alpha: Positive = Field(0.5, description="dirichlet: concentration; smaller is more skewed")
    classes_per_client: Count = Field(2, description="pathological: classes that each client holds")
    column: str | None = Field(None, description="natural: the column that names the owner of a record")


class Data(Section):
    """Where the records come from."""

    source: Literal["digits", "parquet", "npz", "images", "hub", "object"] = Field(
        "digits", description="kind of source; object: records that a program gave to fedtrain.simulate"
    )
    path: str | None = Field(
        None,
        description="training data: a file, a folder or a glob pattern; unused in a deployment: each site has its own",
    )
    test_path: str | None = Field(None, description="test data, which no client sees")
    test_fraction: Fraction | None = Field(
        None, description="fraction of the records held out as test data; default: 0.2 for digits"
    )
    dataset: str | None = Field(None, description="hub: name of the data set, which is downloaded")
    subset: str | None = Field(None, description="hub: configuration of the data set")
    image_column: str | None = Field(None, description="column of the image; default: the first image column")
    target: Literal["class", "number", "labels"] = Field(
        "class", description="what is predicted of a record: its class, a number, or a set of labels"
    )
    label_column: str = Field("label", description="column of the target")
    label_columns: str | None = Field(
        None, description="labels: boolean columns, comma-separated, each one label, instead of a column of lists"
    )
    classes: str | None = Field(
        None,
        description="names of the classes or labels, comma-separated, in the order of their numbers; default: those of "
        "the records; required in a deployment, where a site need not have records of every class",
    )
    feature_columns: str | None = Field(
        None, description="tabular: columns, comma-separated; default: all but the label"
    )
    max_records: Count | None = Field(
        None, description="number of training records to use, drawn with the seed; default: all"
    )
    cache: str | None = Field(None, description="folder of decoded data; default: the user's cache folder")
    partition: Partition = Field(default_factory=Partition)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.source in {"parquet", "npz", "images"} and self.path is None and self.test_path is None:
            raise ValueError(f'path is not set, and source = "{self.source}" reads it')
        if self.source == "hub" and self.dataset is None:
            raise ValueError('dataset is not set, and source = "hub" reads it')
        if self.test_path is not None and self.test_fraction is not None:
            raise ValueError("test_path and test_fraction are both set; set one of them")
        if self.test_path is None and self.test_fraction is None and self.source not in {"digits", "hub", "object"}:
            raise ValueError("there is no test data: set test_path, or test_fraction to hold a part of the records out")
        if self.partition.kind == "natural" and self.partition.column is None:
            raise ValueError('partition.column is not set, and partition.kind = "natural" reads it')
        if self.target != "class":
            self._check_target(self.target)
        elif self.label_columns is not None:
            raise ValueError('label_columns is for target = "labels", and it is "class"')
        names = self.class_names
        if names is not None and (not all(names) or len(set(names)) < len(names)):
            raise ValueError(f"classes = {self.classes!r} has an empty name, or one twice")
        return self

    def _check_target(self, target: Literal["number", "labels"]) -> None:
        """Refuse what a target without classes cannot be combined with."""
        if self.source in {"digits", "images"}:
            raise ValueError(f'source = "{self.source}" has classes, and target = "{target}"; unset target')
        if self.partition.kind in {"dirichlet", "pathological"}:
            raise ValueError(
                f'partition.kind = "{self.partition.kind}" splits by classes, and target = "{target}" has none; '
                'allowed: "iid", "natural"'
            )
        if target == "number" and (self.classes is not None or self.label_columns is not None):
            raise ValueError('classes and label_columns are not for target = "number"; unset them')
        columns = self.label_column_names
        if columns is not None and (not all(columns) or len(set(columns)) < len(columns)):
            raise ValueError(f"label_columns = {self.label_columns!r} has an empty name, or one twice")
        if columns is not None and self.class_names is not None and len(columns) != len(self.class_names):
            raise ValueError(
                f"classes names {len(self.class_names)} labels and label_columns {len(columns)} columns; they are one "
                "for each other, in order"
            )

    @property
    def label_column_names(self) -> tuple[str, ...] | None:
        """The columns of labels, where they are given."""
        return None if self.label_columns is None else tuple(name.strip() for name in self.label_columns.split(","))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where they are given."""
        return None if self.classes is None else tuple(name.strip() for name in self.classes.split(","))


class TaskConfig(Section):
    """What is trained."""

    name: str = Field(
        "vision", description='"vision", "tabular", "regression", "multilabel", or your own as "module:attribute"'
    )
    model: str | None = Field(None, description="a model of the task; default: the task's choice")
    augment: bool = Field(False, description="images: random crop and horizontal flip of training images")


class Training(Section):
    """The local step."""

    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="the optimizer at the client")
    learning_rate: Positive = Field(0.1, description="its learning rate before the schedule")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="sgd: momentum within a round")
    weight_decay: NotNegative = Field(0.0, description="weight decay")
    batch_size: Count = Field(
        32, description="records in a batch; record privacy: the expected number, and the divisor of the sum"
    )
    local_epochs: Positive | None = Field(None, description="passes over the records in a round; default: 1")
    local_steps: Count | None = Field(None, description="optimizer steps in a round, instead of local_epochs")
    physical_batch_size: Count | None = Field(
        None, description="record privacy: records in memory at once; default: the whole batch; changes no result"
    )
    augmentations: Count = Field(
        1, description="record privacy: augmented views of each record, averaged before clipping"
    )
    schedule: Literal["constant", "step", "cosine"] = Field("constant", description="learning rate over the rounds")
    warmup_rounds: Annotated[int, Field(ge=0)] = Field(0, description="rounds of linear warm-up before the schedule")
    step_rounds: Count = Field(10, description="step: rounds between two decays")
    step_factor: Positive = Field(0.5, description="step: factor of each decay")
    final_fraction: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="cosine: last rate over first")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.local_epochs is not None and self.local_steps is not None:
            raise ValueError("local_epochs and local_steps are both set; set one of them")
        return self


class Privacy(Section):
    """The privacy guarantee and its parameters: see docs/explanation/privacy.md."""

    mode: Mode = Field(
        "none", description="none; record: DP-SGD at each client; client: clipped updates, noise added by the server"
    )
    epsilon: Positive = Field(8.0, description="the budget of each client over the whole run")
    delta: Fraction = Field(1e-5, description="the delta of the budget, below 1 / records of a client, or 1 / clients")
    clip_norm: Positive = Field(
        1.0, description="bound on the L2 norm of each record's gradient, or of each client's update"
    )
    sampling_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="record: probability with which a record enters a batch"
    )
    noise_multiplier: Positive | None = Field(
        None, description="standard deviation of the noise over clip_norm; default: the least that keeps the budget"
    )
    max_participations: Count | None = Field(
        None,
        description="most rounds a client trains in; default: all rounds; a value above federation.rounds leaves room "
        "for repeated rounds, which secure noise charges again",
    )
    cohorts: Literal["poisson", "capped"] = Field(
        "poisson",
        description="client: poisson draws each client with probability cohort / clients and keeps cohorts secret; "
        "capped draws cohorts of fixed size, without amplification by sampling",
    )
    adaptive_clipping: bool = Field(False, description="client: let clip_norm follow a quantile of the updates' norms")
    clipping_quantile: Fraction = Field(0.5, description="adaptive clipping: the fraction of updates not clipped")
    clipping_rate: Positive = Field(0.2, description="adaptive clipping: learning rate of the logarithm of clip_norm")
    clipping_noise: Positive | None = Field(
        None, description="adaptive clipping: standard deviation of the noise on the count; default: cohort / 20"
    )
    noise: Literal["seeded", "secure"] = Field(
        "seeded", description="seeded: repeatable, for simulation only; secure: from the operating system's generator"
    )
    tuning: str = Field("not declared", description="earlier runs on the same records, in words; printed in the report")

    @property
    def secret_cohorts(self) -> bool:
        """Whether nobody is to learn who takes part in which round: the accounting relies on that."""
        return self.mode == "client" and self.cohorts == "poisson"


class StrategyParameters(Section):
    """Parameters of Flower's strategies, by Flower's names; default: Flower's defaults."""

    eta: Positive | None = Field(None, description="FedAdam, FedYogi, FedAdagrad: server learning rate")
    eta_l: Positive | None = Field(None, description="FedAdam, FedYogi, FedAdagrad: client learning rate")
    beta_1: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="FedAdam, FedYogi: momentum")
    beta_2: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="FedAdam, FedYogi: second moment")
    tau: Positive | None = Field(None, description="FedAdam, FedYogi, FedAdagrad: adaptivity")
    server_learning_rate: Positive | None = Field(None, description="FedAvgM: server learning rate")
    server_momentum: NotNegative | None = Field(None, description="FedAvgM: server momentum")
    proximal_mu: NotNegative | None = Field(None, description="FedProx: weight of the proximal term")
    beta: Annotated[float, Field(ge=0, lt=0.5)] | None = Field(None, description="FedTrimmedAvg: cut on each side")
    num_malicious_nodes: Annotated[int, Field(ge=0)] | None = Field(None, description="Krum, MultiKrum, Bulyan")
    num_nodes_to_select: Count | None = Field(None, description="MultiKrum")
    client_learning_rate: Positive | None = Field(None, description="QFedAvg: the clients' learning rate")
    q: NotNegative | None = Field(None, description="QFedAvg: fairness")


class SecureAggregation(Section):
    """The server learns the sum of the updates, and no single one: see docs/explanation/transport.md."""

    enabled: bool | None = Field(None, description="mask updates; default: on in a deployment, off in a simulation")
    threshold: Annotated[int, Field(ge=2)] | None = Field(
        None, description="clients of a cohort that must answer; default: two thirds, the least allowed"
    )
    neighbours: Annotated[int, Field(ge=1)] | None = Field(
        None, description="clients each client shares masks with; default: all others, up to a cohort of 200"
    )
    bits: Annotated[int, Field(ge=2, le=30)] = Field(
        16, description="bits of a quantized parameter; more bits cost more bytes"
    )
    bound: Annotated[float, Field(ge=1e-9, le=1e9)] | None = Field(
        None, description="largest change of a parameter in an update; default: 1, in client privacy the clipping norm"
    )
    max_weight: Count | None = Field(
        None, description="mode none: weigh clients by their records, up to this number; default: equal weights"
    )

    @property
    def largest_change(self) -> float:
        """The bound on the change of a parameter where no clipping norm is the bound."""
        return 1.0 if self.bound is None else self.bound


class Transport(Section):
    """Sealed messages and secure aggregation: see docs/explanation/transport.md."""

    sealed: bool | None = Field(
        None,
        description="encrypt models and updates end to end between server and client; default: on in a deployment, off "
        "in a simulation",
    )
    secagg: SecureAggregation = Field(default_factory=SecureAggregation)


class Server(Section):
    """Aggregation and central evaluation."""

    strategy: Strategy = Field("FedAvg", description="one of Flower's strategies")
    parameters: StrategyParameters = Field(default_factory=StrategyParameters)
    evaluate_every: Count = Field(
        1, description="rounds between two central evaluations; the last round always has one"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        taken = STRATEGY_PARAMETERS[self.strategy]
        given = {name for name, value in self.parameters if value is not None}
        if given - taken:
            allowed = ", ".join(sorted(taken)) or "none"
            raise ValueError(f"{self.strategy} does not take {', '.join(sorted(given - taken))}; it takes: {allowed}")
        return self


class Output(Section):
    """The run folder and the screen."""

    directory: str | None = Field(None, description="the run folder")
    resume: bool = Field(False, description="continue from the last checkpoint in the run folder")
    tensorboard: bool = Field(False, description="also write TensorBoard event files")
    screen: Literal["auto", "plain", "none"] = Field("auto", description="progress: a live display, lines, or nothing")


class Experiment(Section):
    """A federated experiment."""

    name: str = Field("experiment", description="the name in reports")
    seed: Annotated[int, Field(ge=0, lt=2**53)] = Field(0, description="seed of everything random in a simulation")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where tensors live")
    federation: Federation = Field(default_factory=Federation)
    data: Data = Field(default_factory=Data)
    task: TaskConfig = Field(default_factory=TaskConfig)
    training: Training = Field(default_factory=Training)
    privacy: Privacy = Field(default_factory=Privacy)
    transport: Transport = Field(default_factory=Transport)
    server: Server = Field(default_factory=Server)
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
        if self.transport.secagg.enabled and (problem := aggregation_problem(self)):
            raise ValueError(problem)
        return self


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
            f"shows the server their sum alone; allowed: {allowed}; or set transport.secagg.enabled = false"
        )
    if federation.cohort < _SMALLEST_SUM:
        return (
            f"federation.cohort = {federation.cohort}, and the sum of one update is that update; secure aggregation "
            f"needs {_SMALLEST_SUM} or more"
        )
    if privacy.secret_cohorts:
        return (
            'privacy.cohorts = "poisson" relies on cohorts that nobody knows, and in secure aggregation the members of '
            'a cohort know each other; set privacy.cohorts = "capped", or transport.secagg.enabled = false'
        )
    if privacy.mode != "none" and secagg.max_weight is not None:
        return (
            f'transport.secagg.max_weight is for privacy.mode = "none", and it is "{privacy.mode}": how many records a '
            "client has would be an access that no epsilon pays for"
        )
    if privacy.mode == "client" and secagg.bound is not None:
        return 'transport.secagg.bound is not for privacy.mode = "client", where the clipping norm is the bound'
    return None


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
