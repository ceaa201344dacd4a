"""The section ``data`` of an experiment: where records come from, and how they are split over clients."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedtrain.config.sections import Count, Digest, Fraction, Positive, Section
from fedtrain.config.toml import FilePath, Names


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
        "for csv whose rows are no texts and no paths of images or sounds",
    )
    schema_digest: Digest | None = Field(
        None,
        description="digest of the schema file, as reports and fedtrain client data have it: with another one nothing "
        "is trained; required in a deployment",
    )
    image_column: str | None = Field(
        None, description="column of the image, in csv of its path; default: the first image column"
    )
    audio_column: str | None = Field(
        None,
        description="column of the sound, in csv of its path, where sample_rate is set; default: the first column of "
        "files",
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
    target: Literal["class", "number", "labels", "text"] = Field(
        "class",
        description="what is predicted of a record: its class, a number, or a set of labels; text: each of its own "
        "tokens, from those before it, so that there is no column of labels",
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
    group_column: str | None = Field(
        None,
        description="parquet, csv: column of the test data that names the group of a record, such as a site or a "
        "speaker; the report has the results of each group, and its name",
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
        if self.group_column is not None and self.source not in {"parquet", "csv"}:
            raise ValueError(
                f'group_column names a column of test data, and source = "{self.source}" reads none; allowed: '
                '"parquet", "csv"'
            )
        self._check_sound()
        return self

    def _check_schema(self) -> None:
        """Refuse what a schema file says otherwise, or does not go with."""
        if self.schema_file is None:
            if self.source == "csv":
                self._check_listed()
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

    def _check_listed(self) -> None:
        """Refuse CSV files without a schema file whose rows are no texts and no paths."""
        if self.feature_columns is not None or (self.image_column, self.audio_column, self.text_column) == (None,) * 3:
            raise ValueError(
                'schema_file is not set, and source = "csv" needs it for a table: it says what each column means. '
                "fedtrain data schema FILE drafts one. For rows that are texts set text_column, for paths of images "
                "image_column, for paths of sounds sample_rate and audio_column"
            )
        if self.sample_rate is not None and self.audio_column is None:
            raise ValueError("audio_column is not set, and in a CSV file nothing but a name tells the column of paths")
        if self.target == "labels" and self.label_columns is None:
            raise ValueError(
                'label_columns is not set: target = "labels" in a CSV file is a column of yes and no for each label'
            )

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
        if self.source not in {"parquet", "csv", "sounds", "hub"}:
            raise ValueError(
                f'sample_rate makes records sounds, and source = "{self.source}" reads none; allowed: "parquet", '
                '"csv", "sounds", "hub"'
            )
        others = ("image_column", "text_column", "feature_columns", "schema_file")
        if given := [name for name in others if getattr(self, name) is not None]:
            raise ValueError(
                f"sample_rate and {given[0]} are both set; a record is a sound, an image, a text or a row of features"
            )
        if self.seconds is None or round(self.seconds * self.sample_rate) < 1:
            raise ValueError("seconds is not set, or is less than one sample; it is the length of a sound")

    def _check_target(self, target: Literal["number", "labels", "text"]) -> None:
        """Refuse what a target without classes cannot be combined with."""
        if target == "text":
            self._check_text()
        if self.source in {"digits", "images", "sounds"}:
            raise ValueError(f'source = "{self.source}" has classes, and target = "{target}"; unset target')
        if self.partition.kind in {"dirichlet", "pathological"}:
            raise ValueError(
                f'partition.kind = "{self.partition.kind}" splits by classes, and target = "{target}" has none; '
                'allowed: "iid", "natural"'
            )
        if target != "labels" and (self.classes is not None or self.label_columns is not None):
            raise ValueError(f'classes and label_columns are not for target = "{target}"; unset them')
        columns = self.label_column_names
        if columns is not None and (not all(columns) or len(set(columns)) < len(columns)):
            raise ValueError(f"label_columns = {self.label_columns!r} has an empty name, or one twice")
        if columns is not None and self.class_names is not None and len(columns) != len(self.class_names):
            raise ValueError(
                f"classes names {len(self.class_names)} labels and label_columns {len(columns)} columns; they are one "
                "for each other, in order"
            )

    def _check_text(self) -> None:
        """Refuse what a target that is the text itself does not go with."""
        if self.source not in {"parquet", "csv", "hub", "object"}:
            raise ValueError(
                f'target = "text" is for records that are texts, and source = "{self.source}" reads none; allowed: '
                '"parquet", "csv", "hub"'
            )
        if self.source != "object" and self.text_column is None:
            raise ValueError('text_column is not set, and target = "text" predicts the tokens of the texts in it')
        if self.label_column != "label":
            raise ValueError('label_column is not for target = "text", which reads no labels; unset it')

    @property
    def names_needed(self) -> bool:
        """Whether sites have to agree on the names of classes or labels, and these are not given."""
        return self.target in {"class", "labels"} and self.classes is None and self.schema_file is None

    @property
    def label_column_names(self) -> tuple[str, ...] | None:
        """The columns of labels, where they are given."""
        return None if self.label_columns is None else tuple(name.strip() for name in self.label_columns.split(","))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where they are given."""
        return None if self.classes is None else tuple(name.strip() for name in self.classes.split(","))
