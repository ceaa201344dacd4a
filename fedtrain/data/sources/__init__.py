"""The registry of sources. Everything else asks the source that it finds here, and never what kind it is."""

from fedtrain.data.sources.base import Decoded, Source
from fedtrain.data.sources.kinds import Csv, Digits, Given, Hub, Images, Npz, Parquet, Sounds

__all__ = ["Decoded", "Source", "register", "registered", "source_of"]

_REGISTRY: dict[str, Source] = {}


def register(source: Source) -> None:
    """Add a source to the registry.

    Raises:
        ValueError: another one has its kind.
    """
    if source.kind in _REGISTRY:
        raise ValueError(f"a source {source.kind!r} is registered already")
    _REGISTRY[source.kind] = source


def registered() -> tuple[Source, ...]:
    """Return every source that is registered."""
    return tuple(_REGISTRY.values())


def source_of(kind: str) -> Source:
    """Return the source of a kind, as ``data.source`` names it; the configuration allows only those that there are."""
    return _REGISTRY[kind]


for _source in (Digits(), Parquet(), Csv(), Npz(), Images(), Sounds(), Hub(), Given()):
    register(_source)
