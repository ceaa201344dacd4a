"""``fedtrain client data``: look at the site's own records as they would be trained on."""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedtrain.cli.failing import reporting_errors
from fedtrain.data import DataInfo, Split, format_histogram
from fedtrain.data.site import SiteData, open_site, read_site_data
from fedtrain.ledger import read_policy
from fedtrain.machines import NodeFolder


def data(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")],
) -> None:
    """Read the site's records, and show their schema and how many there are of each class. Nothing leaves the node."""
    with reporting_errors():
        node = NodeFolder.open(kit)
        policy, source = read_policy(node.site), read_site_data(node.path)
        records = open_site(source, folder=node.path)
        info, train = records.info, records.train
        lines = [
            f"source: {source.source}{'' if source.path is None else f', {source.path}'}",
            *_columns(source),
            f"records: {len(train)} of kind {info.kind}, shape {info.shape}, {train.features.dtype}",
            *_targets(train, info),
        ]
        if source.classes is None and source.target != "number":
            lines.append(
                "warning: [data] names no classes, and without them nothing is trained: add "
                f'classes = "{", ".join(info.classes)}", or as many as the experiments have, in their order'
            )
        if policy.delta * len(train) >= 1:
            lines.append(
                f"warning: [budget] delta = {policy.delta:g} is not below 1 / {len(train)}: it would allow "
                "publishing a record"
            )
        sys.stdout.write("\n".join([*lines, "nothing of this left the node"]) + "\n")


def _targets(train: Split, info: DataInfo) -> list[str]:
    """Say how many records have each class or label, or between which numbers the targets are."""
    match info.target.kind:
        case "class":
            return [format_histogram(np.bincount(train.targets, minlength=len(info.classes))[None], info.classes)]
        case "labels":
            return ["records with each label:", format_histogram(train.targets.sum(axis=0)[None], info.classes)]
        case "number":
            return [f"target: numbers from {train.targets.min():g} to {train.targets.max():g}"]


def _columns(source: SiteData) -> list[str]:
    """Say which columns are read, of a source that has columns."""
    if source.source != "parquet":
        return []
    read = source.feature_columns or source.image_column or "the first image column"
    return [f"columns: {read}; label: {source.label_columns or source.label_column}"]
