"""What a decoder returns, and the checks that all of them share."""

from dataclasses import dataclass

from fedtrain.data.types import DataInfo, Split
from fedtrain.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """All records of a source, in its order, checked.

    Attributes:
        info: the kind and shape of a record, and the classes.
        train: the training records, with their owners where ``partition.column`` is set.
        test: the test records where the source has them apart, else ``None``.
        categorical: the columns of categories that became features: one feature for each category that occurs, or the
            number that this source gives to the category.
    """

    info: DataInfo
    train: Split
    test: Split | None
    categorical: tuple[str, ...] = ()


def require_records(count: int, what: str) -> None:
    """Refuse an empty set of records.

    Raises:
        DataError: it is empty.
    """
    if count == 0:
        raise DataError(f"{what} holds no records")
