"""``fedtrain client data``: what training would see of a site's records."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet
from fedtrain.data import WIDE, DataInfo, Split, format_histogram, lengths_of
from fedtrain.data.schema import drafted_lines
from fedtrain.data.site import SiteData, SiteRecords, begins_ledger, open_site, read_site_data
from fedtrain.data.types import Columns
from fedtrain.ledger import read_policy
from fedtrain.machines import NodeFolder
from fedtrain.progress import shown


def data(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read the site's records, and show their schema and how many there are of each class. Nothing leaves the node."""
    with output(as_json, quiet) as out:
        node = NodeFolder.open(kit)
        policy, source = read_policy(node.site), read_site_data(node.path)
        with shown():
            records = open_site(source, folder=node.path)
        warnings = list(_warnings(node, source, records, delta=policy.delta))
        lines = [*_described(source, records), *(f"warning: {warning}" for warning in warnings)]
        out.result(_as_data(source, records) | {"warnings": warnings}, lines)
        out.say("nothing of this left the node")


def _as_data(source: SiteData, records: SiteRecords) -> dict[str, Any]:
    info, train = records.info, records.train
    return {
        "source": source.source,
        "path": None if source.path is None else str(source.path),
        "records": len(train),
        "kind": info.kind,
        "shape": list(info.shape),
        "schema_digest": _schema(info),
        "target": info.target.kind,
        "counts": dict(zip(info.classes, _counts(train, info).tolist(), strict=True)) if info.classes else {},
        "range": [float(train.targets.min()), float(train.targets.max())] if info.target.kind == "number" else None,
        "rules": [asdict(found) for found in records.rules],
    }


def _described(source: SiteData, records: SiteRecords) -> list[str]:
    info, train = records.info, records.train
    return [
        f"source: {source.source}{'' if source.path is None else f', {source.path}'}",
        *_columns(source, info),
        f"records: {len(train)} of kind {info.kind}, shape {info.shape}, {train.features.dtype}",
        *filter(None, [lengths_of(train, info)]),
        *_targets(train, info),
        *_rules(records),
    ]


def _warnings(node: NodeFolder, source: SiteData, records: SiteRecords, *, delta: float) -> Iterator[str]:
    info, train = records.info, records.train
    for found in records.rules:
        if 2 * found.unseen > len(train):
            yield (
                f"most values of column {found.column} are none of those that the schema file lists, and count as one "
                "category: are they written in another way?"
            )
    if source.as_source().names_needed:
        yield (
            "[data] names no classes, and without them nothing is trained: add "
            f'classes = "{", ".join(info.classes)}", or as many as the experiments have, in their order'
        )
    if info.kind == "table" and len(wide := train.wide_columns()[0]):
        yield (
            f"{len(wide)} of {info.shape[0]} columns have values beyond {WIDE:g} in size, of which the first is "
            f"{info.feature(int(wide[0]))}: a model hardly learns from such, whatever it spends. Scale them with the "
            "constants that all sites of the experiment use, and never with a mean or bound of your own records"
        )
    if source.schema_file is not None and (drafted := drafted_lines(Path(source.schema_file))):
        yield (
            f"{drafted} lines of the schema file are still marked as drafted from data. Bounds and categories of "
            "private records are not private in a schema: put public ones in their place, and remove the comments"
        )
    if others := begins_ledger(node.path, train):
        yield (
            f"these records have no ledger, and this node has {others} of other records: they would begin with the "
            "whole budget. Where the same people are in both, since a schema, columns, classes or a few records were "
            "changed, what was spent adds up: take it off [budget], or go back to the decoding of before"
        )
    if delta * len(train) >= 1:
        yield f"[budget] delta = {delta:g} is not below 1 / {len(train)}: it would allow publishing a record"


def _counts(train: Split, info: DataInfo) -> Any:
    """Return how many records have each class or label: int64 of shape (classes,)."""
    if info.target.kind == "labels":
        return train.targets.sum(axis=0).astype(np.int64)
    return np.bincount(train.targets, minlength=len(info.classes))


def _targets(train: Split, info: DataInfo) -> list[str]:
    """Say how many records have each class or label, or between which numbers the targets are."""
    match info.target.kind:
        case "class":
            return [format_histogram(_counts(train, info)[None], info.classes)]
        case "labels":
            return ["records with each label:", format_histogram(_counts(train, info)[None], info.classes)]
        case "number":
            return [f"target: numbers from {train.targets.min():g} to {train.targets.max():g}"]
        case "text":
            return ["target: the text itself"]


def _rules(records: SiteRecords) -> list[str]:
    """Say how often the rules of a schema file were needed."""
    lines = []
    for found in records.rules:
        counts = {"missing": found.missing, "clipped": found.clipped, "not listed": found.unseen}
        said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        lines.append(f"column {found.column}: {said}, of {len(records.train):,}")
    return lines


def _schema(info: DataInfo) -> str | None:
    return info.features.schema if isinstance(info.features, Columns) else None


def _columns(source: SiteData, info: DataInfo) -> list[str]:
    """Say which columns are read, of a source that has columns."""
    if (schema := _schema(info)) is not None:
        return [f"schema: {source.schema_file}, data.schema_digest = {schema}"]
    if source.source != "parquet":
        return []
    if source.sample_rate is not None:
        read = source.audio_column or "the first column of files"
    else:
        read = source.feature_columns or source.text_column or source.image_column or "the first image column"
    if source.target == "text":
        return [f"columns: {read}"]
    return [f"columns: {read}; label: {source.label_columns or source.label_column}"]
