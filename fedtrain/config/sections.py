"""The sections of an experiment: clients, task, training, server and output.

Records are in `fedtrain.config.data`, what protects them is in `fedtrain.config.privacy`, and the tree is in
`fedtrain.config.experiment`. Every field is public: nothing in it may depend on a client's data. ``None`` means "not
set"; in Flower's flat run config, which has no such value, an empty string stands for it.
"""

import os
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fedtrain.config.toml import FilePath, Line, Names

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

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

# What these compute goes by the distances between clients.
DISTANCES = frozenset({"Krum", "MultiKrum", "Bulyan"})

# These bound what some malicious clients do to the model.
ROBUST = DISTANCES | {"FedMedian", "FedTrimmedAvg"}

ENCODERS: dict[str, str] = {
    "scattering": "no records at all: the filters are formulas, and the constants are of synthetic noise",
    "log-mel": "no records at all: filters and constants are formulas",
    "words": "no records at all: the number of a word is a public hash of it",
    "bytes": "no records at all: the numbers are the bytes of UTF-8",
    "minilm": "over a billion pairs of sentences from public sources of the web (Reddit, Stack Exchange, scientific "
    "papers, questions and answers, and others), after books and Wikipedia for the network that it was distilled from; "
    "as sentence-transformers/all-MiniLM-L6-v2 declares them",
    "minilm-tokens": "books and Wikipedia, of which the vocabulary of BERT was made",
}
"""The encoders that are built in, each with its origin."""

ADAPTED: dict[str, str] = {"minilm-lora": ENCODERS["minilm"]}
"""The models that adapt frozen public weights, each with the origin of these."""

TOKENIZER_FILE = ".json"
"""How the name of an encoder ends that is the file of a tokenizer."""


class Section(BaseModel):
    """A part of the tree: immutable, strictly typed, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """Refuse bytes of the command line that are not UTF-8, which Python keeps as halves of characters."""
        if isinstance(value, str | os.PathLike) and any("\ud800" <= letter <= "\udfff" for letter in str(value)):
            raise ValueError(
                f"{str(value)!r} is not UTF-8, in which reports and settings are written; name it otherwise"
            )
        return value


class Federation(Section):
    """Who takes part."""

    clients: Count = Field(10, description="clients in the federation, one partition of the data each")
    cohort: Count = Field(10, description="clients that train in a round")
    rounds: Count = Field(10, description="rounds of training")
    min_results: Count = Field(1, description="usable results a round needs; the run fails below it")
    deadline: Positive = Field(600.0, description="seconds after which a round goes on without the missing results")
    retries: Annotated[int, Field(ge=0, le=10)] = Field(
        0, description="times that a round with too few usable results is asked again by itself"
    )
    sites: FilePath | None = Field(
        None,
        description="folder of the clients' own files (keys, ledgers, site.toml), kept over runs; "
        "default: clients/ in the run folder",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cohort > self.clients:
            raise ValueError(
                f"cohort = {self.cohort} is more than clients = {self.clients}: lower federation.cohort, the clients "
                "that train in a round, or raise federation.clients"
            )
        if self.min_results > self.cohort:
            raise ValueError(
                f"min_results = {self.min_results} is more than cohort = {self.cohort}: lower federation.min_results, "
                "the usable results that a round needs, or raise federation.cohort"
            )
        return self


class TaskConfig(Section):
    """What is trained."""

    name: str = Field(
        "vision",
        description='"vision", "text", "language", "tabular", "speech", "regression", "multilabel", "statistics", or '
        'your own as "module:attribute"',
    )
    model: str | None = Field(None, description="a model of the task; default: the task's choice")
    augment: bool = Field(
        False,
        description="images: random crop and horizontal flip of training images; sounds: random shift, gain and noise",
    )
    encoder: str | None = Field(
        None,
        description='a frozen module that computes the features of each record once: "scattering" of images; '
        '"log-mel" of sounds; "minilm", "minilm-tokens", "words", "bytes" or the file of a tokenizer, which ends in '
        '.json, of texts; or your own as "module:attribute"; default: records are trained on as they are stored',
    )
    encoder_origin: Line | None = Field(
        None,
        description="encoder of your own, or file of a tokenizer: what it was fitted on, in words. Epsilon does not "
        "cover it, so it is public",
    )
    encoder_digest: Digest | None = Field(
        None,
        description="SHA-256 of the encoder's source and state: with another one nothing is trained; required in a "
        "deployment",
    )
    max_tokens: Annotated[int, Field(ge=1, le=65_536)] = Field(
        128, description="encoders that make tokens of a text: the first so many are kept"
    )
    lora_rank: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description='"minilm-lora": rank of the adapters; default: 8'
    )
    lora_factors: Literal["both", "b"] | None = Field(
        None,
        description='"minilm-lora": which factors of an adapter are trained: "both"; or "b", where A stays at its '
        "public initial value, so that the mean of adapters is exact; default: both",
    )
    scaling: Names | None = Field(
        None,
        description="tables: what is subtracted from columns, and what the rest is divided by, comma-separated, such "
        'as "age: 48.9 by 18"; public constants, or those of a private release (fedtrain stats)',
    )
    columns: Names | None = Field(
        None,
        description='statistics: columns with public bounds, comma-separated, such as "age: 17 to 90"; "target" is the '
        "target where that is a number",
    )
    bins: Annotated[int, Field(ge=0, le=10_000)] = Field(
        0, description="statistics: bins of equal width of each column's histogram; 0 for none"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model not in ADAPTED and (self.lora_rank, self.lora_factors) != (None, None):
            field = "lora_rank" if self.lora_rank is not None else "lora_factors"
            raise ValueError(f'{field} is for a model with adapters; set model = "minilm-lora", or unset {field}')
        if self.encoder is None:
            if self.encoder_origin is not None or self.encoder_digest is not None:
                field = "encoder_digest" if self.encoder_origin is None else "encoder_origin"
                raise ValueError(f"{field} is set, and encoder is not; set both or neither")
            return self
        if self.augment:
            raise ValueError(
                "augment = true with an encoder: the features of a record are computed once, and each step would need "
                "those of another view of it; unset one of them"
            )
        own = ":" in self.encoder or self.encoder.endswith(TOKENIZER_FILE)
        if not own and self.encoder not in ENCODERS:
            allowed = ", ".join(f'"{name}"' for name in ENCODERS)
            raise ValueError(
                f'encoder = "{self.encoder}" is not known; allowed: {allowed}, or your own as "module:attribute", or '
                f"the file of a tokenizer, which ends in {TOKENIZER_FILE}"
            )
        if own and self.encoder_origin is None:
            raise ValueError(
                f'encoder = "{self.encoder}" has no declared origin: say in encoder_origin what it was fitted on, for '
                'example "ImageNet-1k, weights of torchvision". No epsilon pays for what it knows of the records that '
                "it was fitted on, so that an encoder fitted on private records is not allowed"
            )
        if not own and self.encoder_origin is not None:
            raise ValueError(
                f'encoder_origin is for an encoder of your own, and the origin of "{self.encoder}" is known; unset it'
            )
        return self

    @property
    def origin(self) -> str | None:
        """What the encoder was fitted on; ``None`` without one."""
        return self.encoder_origin if self.encoder is None else ENCODERS.get(self.encoder, self.encoder_origin)


class Training(Section):
    """The local step."""

    solver: Literal["gradient", "least-squares"] = Field(
        "gradient",
        description="gradient: steps of the optimizer; least-squares: a linear layer on the inputs in closed form, "
        "from two noisy sums over the records, in one round of record privacy",
    )
    feature_norm: Positive | None = Field(
        None,
        description="least-squares: public bound on the L2 norm of a record's inputs, to which longer ones are scaled "
        "down; default: the square root of their number, the largest norm of inputs from -1 to 1",
    )
    target_lower: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        None,
        description="least-squares: public lower bound of a target that is a number; one below counts as the bound",
    )
    target_upper: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        None, description="least-squares: public upper bound likewise"
    )
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
        None, description="record privacy: records in memory at once; default: the whole batch; changes rounding alone"
    )
    augmentations: Count = Field(
        1, description="record privacy: augmented views of each record, averaged before clipping"
    )
    stacked: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="simulation without privacy: clients that a worker trains at once, which is faster for many "
        "small models; changes results by rounding",
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
        if self.solver != "least-squares":
            for name in ("feature_norm", "target_lower", "target_upper"):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(f'{name} = {value:g} is for solver = "least-squares", and it is "{self.solver}"')
        return self


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

    directory: FilePath | None = Field(None, description="the run folder")
    resume: bool = Field(False, description="continue from the last checkpoint in the run folder")
    tensorboard: bool = Field(False, description="also write TensorBoard event files")
    mlflow: Line | None = Field(
        None, description="also keep measurements in this store of MLflow: the address of a database or a server"
    )
    wandb: Line | None = Field(
        None,
        description="also keep measurements for this project of Weights & Biases, in files of the run folder: nothing "
        "is sent",
    )
    screen: Literal["auto", "plain", "none"] = Field("auto", description="progress: a live display, lines, or nothing")

    @model_validator(mode="after")
    def _without_secrets(self) -> Self:
        if self.mlflow is not None and _has_password(self.mlflow):
            raise ValueError(  # of the section, since one of the field would show it
                "mlflow has a password, and the report holds every field; leave it out, and give it to a server of "
                "MLflow by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, to a database by its own file, for "
                "example ~/.pgpass"
            )
        return self


def _has_password(address: str) -> bool:
    """Say whether the address of a store names a password or a token, or may: rather too often than too rarely."""
    kind, _, rest = address.partition("://")
    place, _, options = rest.partition("?")
    user, at, _ = place.rpartition("@")
    if kind.startswith("sqlite"):
        return False
    named = re.search(r"pass|pwd|secret|token|odbc_connect", options, re.IGNORECASE)
    return named is not None or (at != "" and (":" in user or kind.startswith("http")))
