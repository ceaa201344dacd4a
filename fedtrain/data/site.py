"""The records of one site: where its own file says that they are, as one client of a deployment trains on them."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedtrain.config import Data
from fedtrain.config.loading import explain
from fedtrain.config.toml import FilePath, Names, parse_toml
from fedtrain.data.cache import Built, Entry, cached, kept_digest
from fedtrain.data.schema import read_schema
from fedtrain.data.sources import Decoded, registered
from fedtrain.data.store import decode_numbers, digest_of, entry_of, info_of, records_of, rules_of, with_classes
from fedtrain.data.types import Columns, DataInfo, RuleCounts, Split, TargetKind
from fedtrain.errors import DataError, SiteError, StorageError
from fedtrain.ledger import dataset_key

_FORMATS = tuple(source.kind for source in registered() if source.deployed)
_READ = (
    "schema_file",
    "image_column",
    "audio_column",
    "sample_rate",
    "seconds",
    "resample",
    "mix_down",
    "text_column",
    "max_bytes",
    "target",
    "label_column",
    "label_columns",
    "feature_columns",
    "classes",
)


class SiteData(BaseModel):
    """The section ``[data]`` of a site file.

    Attributes:
        source: ``parquet``, ``csv``, ``npz``, ``images``, ``sounds``, or ``module:attribute``: a function of the site's
            own that takes nothing and returns features and labels as arrays, as an ``npz`` archive has them in ``x``
            and ``y``. The module is a file beside the site file, or else on Python's path.
        path: a file, folder or glob pattern, relative to the site file's folder.
        schema_file: the schema file of a table, relative likewise. It says what the columns mean, in the place of the
            fields that name columns and classes.
        image_column: column of the image; unset: the first image column.
        audio_column: column of the sound, where ``sample_rate`` is set; unset: the first column of files.
        sample_rate: samples a second of sounds; unset: records are no sounds.
        seconds: length of a sound as it is trained on.
        resample: whether files of another rate are brought to ``sample_rate``.
        mix_down: whether the mean over the channels of a file is taken.
        target: what is predicted of a record: ``class``, ``number``, ``labels`` or ``text``.
        label_column: column of the target.
        label_columns: columns of labels, comma-separated, where the target is a set of labels in columns of its own.
        feature_columns: columns of a table, comma-separated, in the order of the model's inputs.
        text_column: column of a text, which is then all that a record is.
        max_bytes: bytes that are kept of a text, as in the experiments.
        classes: names of the classes, comma-separated, in the order of their numbers; unset: those that occur, which
            can be looked at, and not trained on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source: Annotated[str, Field(pattern=r"^(parquet|csv|npz|images|sounds|[\w.]+:\w+)$")]
    path: FilePath | None = None
    schema_file: FilePath | None = None
    image_column: str | None = None
    audio_column: str | None = None
    sample_rate: int | None = None
    seconds: float | None = None
    resample: bool = False
    mix_down: bool = False
    target: TargetKind = "class"
    label_column: str = "label"
    label_columns: Names | None = None
    feature_columns: Names | None = None
    text_column: str | None = None
    max_bytes: int = Data.model_fields["max_bytes"].default
    classes: Names | None = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where they are given."""
        return self.as_source().class_names

    def as_source(self) -> Data:
        """Return what decoders read.

        Raises:
            ValidationError: the target and its columns do not fit.
        """
        # What a function returns is as an archive has it. Test data are not a site's: a fraction stands for the check.
        source = {"source": self.source if self.source in _FORMATS else "npz", "path": self.path or ""}
        columns = {name: getattr(self, name) for name in _READ}
        return Data.model_validate({**source, **columns, "test_fraction": 0.5}).model_copy(
            update={"test_fraction": None}
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.source in _FORMATS) == (self.path is None):
            raise ValueError(f"path is needed for source = {', '.join(_FORMATS)}, and is not allowed for any other")
        try:
            self.as_source()
        except ValidationError as error:
            raise ValueError(explain(error)) from error
        return self


@dataclass(frozen=True, kw_only=True)
class SiteRecords:
    """What a site trains on.

    Attributes:
        info: the kind and shape of a record, and the classes.
        train: all records, in the source's order; memory-mapped and read-only where they come from files.
        rules: how often the rules of a schema file were needed. It is for this site alone.
    """

    info: DataInfo
    train: Split
    rules: tuple[RuleCounts, ...] = ()


def read_site_data(folder: Path) -> SiteData:
    """Read the section ``[data]`` of ``site.toml`` in a folder.

    Raises:
        SiteError: the file or the section is missing, or has a field that is missing, unknown or not allowed.
    """
    path = folder / "site.toml"
    try:
        return site_data(parse_toml(path.read_bytes()).get("data"), path)
    except OSError as error:
        raise SiteError(f"cannot read the site file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SiteError(f"the site file {path} is not TOML: {error}") from error


def site_data(section: object, path: Path) -> SiteData:
    """Read the section ``[data]`` of a site file, as TOML has it.

    Args:
        section: the section; ``None`` if there is none.
        path: the site file. What the section names is relative to its folder.

    Raises:
        SiteError: the section is missing, or has a field that is missing, unknown or not allowed.
    """
    if section is None:
        raise SiteError(f"the site file {path} has no [data], which says where the records are")
    try:
        data = SiteData.model_validate(section)
    except ValidationError as error:
        raise SiteError(f"[data] of the site file {path} cannot be used:\n{explain(error)}") from error
    places = {name: value for name in ("path", "schema_file") if (value := getattr(data, name)) is not None}
    try:
        found = {name: str(path.parent / Path(value).expanduser()) for name, value in places.items()}
    except RuntimeError as error:
        raise SiteError(f"[data] {places} of the site file {path} cannot be used: {error}") from error
    return data.model_copy(update=found)


def open_site(data: SiteData, *, folder: Path, schema: str | None = None) -> SiteRecords:
    """Open the records of a site. Those of files are decoded once, and kept in the folder's own ``cache``.

    The same files give the arrays that a client of a simulation has with a natural split, bit for bit. How they are
    decoded depends on the site's own file alone: ledgers belong to decoded records, and a server that chose the
    decoding could have a fresh one for each.

    Args:
        data: where they are.
        folder: the folder of the site file.
        schema: the digest that the schema file must have had when the records were decoded; ``None`` for any.

    Raises:
        DataError: they are missing or malformed, of other classes, or a table whose columns are in no order.
        SiteError: they were decoded by another schema.
        StorageError: the cache cannot be written.
    """
    source = data.as_source()
    if data.source not in _FORMATS:
        decoded = with_classes(_own(data, folder), source.class_names)
        return SiteRecords(info=decoded.info, train=decoded.train)
    cache = folder / "cache"
    entry = kept(cache, digest_of(source, fraction=None, seed=0), lambda: entry_of(decode_numbers(source)))
    info = info_of(entry)
    if schema is not None and (not isinstance(info.features, Columns) or info.features.schema != schema):
        raise SiteError("the site's schema file was edited while its records were read; nothing was trained")
    return SiteRecords(info=info, train=records_of(entry), rules=rules_of(entry))


def begins_ledger(folder: Path, train: Split) -> int:
    """Return how many ledgers a site has of other records, where it has none of these; else 0.

    Another decoding of the same records is other records to a ledger, and has the whole budget again.

    Args:
        folder: the folder of the site file.
        train: the site's records.

    Raises:
        KeyFileError: the key of the data set digests cannot be used.
    """
    ledgers, key = {file.stem for file in (folder / "ledgers").glob("*.jsonl")}, folder / "dataset.key"
    if not ledgers or not key.exists():
        return 0
    digest = kept_digest(folder / "cache" / "digests", train.features, train.targets, dataset_key(key))
    return 0 if digest in ledgers else len(ledgers)


def schema_digest(data: SiteData) -> str:
    """Return the digest of the site's schema file, of which nothing but the site decides.

    Raises:
        DataError: it cannot be used.
    """
    assert data.schema_file is not None
    return read_schema(Path(data.schema_file)).digest


def kept(cache: Path, name: str, build: Callable[[], Entry | Built]) -> Entry:
    """Return the entry of a site's own cache, as `fedtrain.data.cache.cached` does, in a folder for this user alone.

    Raises:
        StorageError: the cache cannot be written; it does not say how large the records are.
    """
    try:
        cache.mkdir(exist_ok=True)
        cache.chmod(0o700)  # it holds decoded records in the clear
    except OSError as error:
        raise _not_kept(cache, error) from error
    try:
        return cached(cache / name, build)
    except StorageError as error:
        raise _not_kept(cache, error.__cause__) from error


def _not_kept(cache: Path, error: BaseException | None) -> StorageError:
    # The server is told of storage errors, and how large the records are would tell how many there are.
    reason = (error.strerror if isinstance(error, OSError) else None) or "writing failed"
    return StorageError(
        f"{cache}: the decoded records cannot be kept: {reason}; make room, or let this user write there"
    )


def _own(data: SiteData, folder: Path) -> Decoded:
    """Call the site's own function."""
    from fedtrain.data.sources.arrays import decode_arrays  # noqa: PLC0415 - like every decoder, only where it is used

    name = data.source
    try:
        x, y = _load(name, folder)()
        features, labels = np.asarray(x), np.asarray(y)
        masked = np.ma.is_masked(x) or np.ma.is_masked(y)
    except (Exception, SystemExit) as error:  # it may raise anything
        raise DataError(f"[data] source = {name!r} failed: {type(error).__name__}: {error}") from error
    if masked:
        raise DataError(f"[data] source = {name!r} gave a masked array with missing values; leave such records out")
    return decode_arrays(name, features, labels, target=data.target, names=data.class_names)


def _load(name: str, folder: Path) -> Callable[[], tuple[object, object]]:
    module_name, attribute = name.split(":")
    file = folder / f"{module_name}.py"
    if file.exists():
        spec = importlib.util.spec_from_file_location(f"fedtrain_site_{module_name}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for the names in annotations
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(module_name)
    function: Callable[[], tuple[object, object]] = getattr(module, attribute)
    return function
