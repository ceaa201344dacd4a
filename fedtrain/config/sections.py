"""The sections of an experiment: clients, data, task, training, server and output.

Those that protect the records are in `fedtrain.config.privacy`, and the tree is in `fedtrain.config.experiment`. Every
field is public: nothing in it may depend on a client's data. ``None`` means "not set"; in Flower's flat run
config, which has no such value, an empty string stands for it.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
}
"""The encoders that are built in, each with its origin."""

TOKENIZER_FILE = ".json"
"""How the name of an encoder ends that is the file of a tokenizer."""


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


class Partition(Section):
    """How the training records are split over the clients."""

    kind: Literal["iid", "dirichlet", "pathological", "natural"] = Field("iid", description="the partitioner")
    alpha: Positive = Field(0.5, description="dirichlet: concentration; smaller is more skewed")
    classes_per_client: Count = Field(2, description="pathological: classes that each client holds")
    column: str | None = Field(None, description="natural: the column that names the owner of a record")


class Data(Section):
    """Where the records come from."""

    source: Literal["digits", "parquet", "csv", "npz", "images", "sounds", "hub", "object"] = Field(
        "digits", description="kind of source; object: records that a program gave to fedtrain.simulate"
    )
    path: FilePath | None = Field(
        None,
        description="training data: a file, a folder or a glob pattern; unused in a deployment: each site has its own",
    )
    test_path: FilePath | None = Field(None, description="test data, which no client sees")
    test_fraction: Fraction | None = Field(
        None, description="fraction of the records held out as test data; default: 0.2 for digits"
    )
    dataset: FilePath | None = Field(None, description="hub: name of the data set, which is downloaded")
    subset: str | None = Field(None, description="hub: configuration of the data set")
    schema_file: FilePath | None = Field(
        None,
        description="csv, parquet: the public schema file of the table, which says what each column means; required "
        "for csv",
    )
    schema_digest: Digest | None = Field(
        None,
        description="digest of the schema file, as reports and fedtrain client data have it: with another one nothing "
        "is trained; required in a deployment",
    )
    image_column: str | None = Field(None, description="column of the image; default: the first image column")
    audio_column: str | None = Field(
        None, description="column of the sound, where sample_rate is set; default: the first column of files"
    )
    sample_rate: Annotated[int, Field(ge=1, le=768_000)] | None = Field(
        None, description="records are sounds, of so many samples a second; a file of another rate is refused"
    )
    seconds: Annotated[float, Field(gt=0, le=600)] | None = Field(
        None,
        description="length of a sound as it is trained on: a longer one is cut at its end, a shorter one is padded "
        "with silence",
    )
    resample: bool = Field(
        False, description="sounds: bring files of another rate to sample_rate, by a polyphase filter"
    )
    mix_down: bool = Field(False, description="sounds: take the mean over the channels of a file that has several")
    target: Literal["class", "number", "labels"] = Field(
        "class", description="what is predicted of a record: its class, a number, or a set of labels"
    )
    label_column: str = Field("label", description="column of the target")
    label_columns: Names | None = Field(
        None, description="labels: boolean columns, comma-separated, each one label, instead of a column of lists"
    )
    classes: Names | None = Field(
        None,
        description="names of the classes or labels, comma-separated, in the order of their numbers; default: those of "
        "the records; required in a deployment, where a site need not have records of every class",
    )
    feature_columns: Names | None = Field(
        None, description="tabular: columns, comma-separated; default: all but the label"
    )
    text_column: str | None = Field(None, description="column of a text, which is then all that a record is")
    max_bytes: Annotated[int, Field(ge=4, le=1_000_000)] = Field(
        2048, description="text: bytes of UTF-8 that are kept of each; a longer text is cut between two characters"
    )
    max_records: Count | None = Field(
        None, description="number of training records to use, drawn with the seed; default: all"
    )
    cache: FilePath | None = Field(None, description="folder of decoded data; default: the user's cache folder")
    partition: Partition = Field(default_factory=Partition)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (
            self.source in {"parquet", "csv", "npz", "images", "sounds"}
            and self.path is None
            and self.test_path is None
        ):
            raise ValueError(f'path is not set, and source = "{self.source}" reads it')
        if self.source == "hub" and self.dataset is None:
            raise ValueError('dataset is not set, and source = "hub" reads it')
        self._check_schema()
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
        self._check_sound()
        return self

    def _check_schema(self) -> None:
        """Refuse what a schema file says otherwise, or does not go with."""
        if self.schema_file is None:
            if self.source == "csv":
                raise ValueError(
                    'schema_file is not set, and source = "csv" needs it: it says what each column means. '
                    "fedtrain data schema FILE drafts one"
                )
            if self.schema_digest is not None:
                raise ValueError("schema_digest is set, and schema_file is not; set both or neither")
            return
        if self.source not in {"csv", "parquet"}:
            raise ValueError(f'schema_file is for source = "csv" or "parquet", and it is "{self.source}"')
        said = ("image_column", "text_column", "label_columns", "classes", "feature_columns")
        given = [name for name in said if getattr(self, name) is not None]
        if self.label_column != "label":
            given.append("label_column")
        if given:
            raise ValueError(f"{given[0]} is set, and the schema file says what the columns mean; unset it")
        if self.target == "labels":
            raise ValueError('target = "labels" has no column in a schema file; allowed: "class", "number"')

    def _check_sound(self) -> None:
        """Refuse what does not say what a sound is, or says it of records that are none."""
        if self.sample_rate is None:
            needs = {
                "audio_column": self.audio_column is not None,
                "seconds": self.seconds is not None,
                "resample": self.resample,
                "mix_down": self.mix_down,
                'source = "sounds"': self.source == "sounds",
            }
            if given := [name for name, is_set in needs.items() if is_set]:
                raise ValueError(f"{given[0]} is for sounds, and sample_rate, which makes records sounds, is not set")
            return
        if self.source not in {"parquet", "sounds", "hub"}:
            raise ValueError(
                f'sample_rate makes records sounds, and source = "{self.source}" reads none; allowed: "parquet", '
                '"sounds", "hub"'
            )
        others = ("image_column", "text_column", "feature_columns", "schema_file")
        if given := [name for name in others if getattr(self, name) is not None]:
            raise ValueError(
                f"sample_rate and {given[0]} are both set; a record is a sound, an image, a text or a row of features"
            )
        if self.seconds is None or round(self.seconds * self.sample_rate) < 1:
            raise ValueError("seconds is not set, or is less than one sample; it is the length of a sound")

    def _check_target(self, target: Literal["number", "labels"]) -> None:
        """Refuse what a target without classes cannot be combined with."""
        if self.source in {"digits", "images", "sounds"}:
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
        "vision",
        description='"vision", "text", "tabular", "speech", "regression", "multilabel", "statistics", or your own as '
        '"module:attribute"',
    )
    model: str | None = Field(None, description="a model of the task; default: the task's choice")
    augment: bool = Field(
        False,
        description="images: random crop and horizontal flip of training images; sounds: random shift, gain and noise",
    )
    encoder: str | None = Field(
        None,
        description='a frozen module that computes the features of each record once: "scattering" of images; '
        '"log-mel" of sounds; "minilm", "words", "bytes" or the file of a tokenizer, which ends in .json, of texts; or '
        'your own as "module:attribute"; default: records are trained on as they are stored',
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
    screen: Literal["auto", "plain", "none"] = Field("auto", description="progress: a live display, lines, or nothing")
