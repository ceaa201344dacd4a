"""The model card of a run, in the form of the Hugging Face hub: every number in it is one of the report.

Mitchell et al. 2019, "Model Cards for Model Reporting". What other people wrote, names of classes, statements of the
operator, is quoted or escaped: it can neither end a table nor pass for words of the card.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from fedtrain.report import meaning
from fedtrain.report.inputs import Inputs
from fedtrain.report.intervals import group_table, interval_table
from fedtrain.report.numbers import count, counted, exact, measured, printable, short, upper
from fedtrain.report.schema import Report
from fedtrain.report.statements import said, statements
from fedtrain.report.tables import Table, adversaries, measurements
from fedtrain.report.wording import listed, title

_PIPELINES: Final = {
    ("image", "class"): "image-classification",
    ("table", "class"): "tabular-classification",
    ("table", "number"): "tabular-regression",
    ("text", "class"): "text-classification",
    ("text", "text"): "text-generation",
    ("audio", "class"): "audio-classification",
}
_RECORDS: Final = {"image": "an image", "table": "a row of a table", "audio": "a sound", "text": "a text"}
_LONGEST = 1000
_NAMES = 100


@dataclass(frozen=True, kw_only=True)
class Network:
    """A graph that stands beside the card.

    Attributes:
        file: its name.
        takes: the name of its input: ``records``, as they are stored, or ``inputs``, what is computed of them.
        shape: of one of them.
        dtype: of them.
    """

    file: str
    takes: str
    shape: tuple[int, ...]
    dtype: str


def model_card(
    report: Report,
    inputs: Inputs,
    *,
    audited: str,
    digest: str,
    weights: str,
    which: Literal["final", "best"],
    network: Network | None,
) -> str:
    """Return the card as Markdown, with the metadata of the hub in front.

    Args:
        report: the report of the run.
        inputs: what the model takes and returns.
        audited: what an audit of the report said; empty where there is nothing to audit.
        digest: the SHA-256 of ``report.json``.
        weights: the file of the weights beside the card.
        which: whose weights they are.
        network: the graph beside the card, if there is one.
    """
    sections = (
        _front(report, inputs, which),
        f"# {escaped(report.name)}",
        _introduction(report, which),
        *_results(report, which),
        "## Privacy",
        *_privacy(report, audited),
        "## Data",
        *_data(report, inputs),
        "## Use",
        *_use(report, inputs, weights, network),
        *_statements(report),
        "## Where this comes from",
        _provenance(report, digest),
    )
    return "\n\n".join(sections) + "\n"


def escaped(text: str) -> str:
    r"""Return a text so that Markdown shows it as it is, in one line.

    >>> print(escaped("a|b *c* <i>"))
    a\|b \*c\* &lt;i&gt;
    """
    line = printable(" ".join(text.split()))
    line = re.sub(r"([\\`*_\[\]#|~$])", r"\\\1", line)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _front(report: Report, inputs: Inputs, which: Literal["final", "best"]) -> str:
    """Return the metadata of the hub. Strings are written as JSON, which YAML reads as they are."""
    pipeline = _PIPELINES.get((inputs.kind, inputs.target))
    tags = ["federated-learning", "fedtrain", *(["differential-privacy"] if _bounded(report) else [])]
    lines = ["---", f"tags: {json.dumps(tags)}"]
    if pipeline is not None:
        lines.append(f"pipeline_tag: {pipeline}")
    evaluation, best = report.evaluation.final, report.evaluation.best
    if which == "best" and best is not None:
        (evaluation,) = (each for each in report.evaluation.history if each.round == best.round)
    metrics = report.evaluation.metrics
    values = [] if evaluation is None else [(each.name, evaluation.value(each.name)) for each in metrics]
    if found := [(name, value) for name, value in values if value is not None]:
        lines += [
            "model-index:",
            f"- name: {_json(report.name)}",
            "  results:",
            f"  - task: {{type: {pipeline or 'other'}}}",
            '    dataset: {type: "private", name: "central test records of the run"}',
            "    metrics:",
            *(f"    - {{type: {_json(name)}, value: {_number(value)}}}" for name, value in found),
        ]
    return "\n".join((*lines, "---"))


def _json(text: str) -> str:
    # As they are: YAML takes the two halves of an escaped character beyond U+FFFF for two.
    return json.dumps(short(text, _NAMES), ensure_ascii=False)


def _number(value: float) -> str:
    """Return a number as YAML 1.1 has it, where 1e-05 is a text."""
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")


def _bounded(report: Report) -> bool:
    return report.privacy.epsilon is not None and report.privacy.noise == "secure"


def _introduction(report: Report, which: Literal["final", "best"]) -> str:
    data, clients = report.data, count(report.data.clients)
    many, record = count(len(data.classes)), _RECORDS.get(data.kind, "a record")
    what = {
        "class": f"which of {many} classes {record} is of",
        "number": f"a number of {record}",
        "labels": f"which of {many} labels {record} has",
        "text": f"each token of {record} from those before it",
    }[data.target]
    text = (
        f"Predicts {what}. {clients} clients trained it together by federated learning, in "
        f"{counted(report.rounds, 'round')}, and no client sent its records. {_size(report)}"
    )
    if report.status != "completed":
        text += f" The run was {report.status}; {counted(report.planned_rounds, 'round')} had been planned."
    if which == "best" and report.evaluation.best is not None:
        text += (
            f" These are the weights after round {count(report.evaluation.best.round)}, which were chosen on the test "
            "records."
        )
    return text


def _size(report: Report) -> str:
    numbers = count(report.model.parameters)
    if report.config.get("training.solver") == "least-squares":
        return f"It is fitted in closed form from {numbers} sums over the records."
    return f"It has {numbers} parameters."


def _results(report: Report, which: Literal["final", "best"]) -> list[str]:
    evaluations = report.evaluation
    parts = ["## Results"]
    if evaluations.final is None:
        return [*parts, "The model was not evaluated."]
    parts.append(f"On {count(report.data.test_records)} test records, which no client had.")
    table = interval_table(evaluations)
    if table is None:
        rows = measurements(evaluations.final, evaluations.metrics)
        table = Table(headings=("measurement", "after the last round"), rows=rows)
        if which == "best":
            parts.append("The table is of the last round, and the weights are those of the best.")
    parts.append(_table(table))
    if table.note:
        parts.append(table.note)
    known = evaluations.baseline or {}
    baseline = [
        f"{escaped(title(metric.name))} {measured(known[metric.name], metric.direction, metric.format)}"
        for metric in evaluations.metrics
        if metric.name in known
    ]
    if baseline:
        parts.append(f"One and the same answer for all test records reaches: {', '.join(baseline)}.")
    return [*parts, *_groups(report, which)]


def _groups(report: Report, which: Literal["final", "best"]) -> list[str]:
    groups, table = report.evaluation.groups, group_table(report.evaluation)
    if groups is None or table is None:
        return []
    parts = [f"### By {escaped(short(groups.column, _NAMES))}", _table(table), table.note]
    if which == "best":
        parts.insert(1, "The table is of the last round, and the weights are those of the best.")
    return parts


def _privacy(report: Report, audited: str) -> list[str]:
    privacy = report.privacy
    parts = []
    if privacy.noise == "seeded":
        parts.append(
            "**Simulation: protects nobody.** The noise of this run comes from a seed, and whoever knows the seed can "
            "remove it. Its numbers are those that a deployment would have."
        )
    parts.append(escaped(privacy.statement))
    if privacy.epsilon is not None and privacy.delta is not None:
        rows = [
            ("epsilon, at most", upper(privacy.epsilon)),
            ("delta", exact(privacy.delta)),
            ("unit", meaning.group(privacy)),
            ("budget", "none" if privacy.budget is None else exact(privacy.budget)),
            ("composition", privacy.composition),
        ]
        parts += [_table(Table(headings=("claim", "value"), rows=rows)), f"Delta: {meaning.meaning_of_delta(privacy)}"]
        parts.append(_table(adversaries(privacy)))
    uncovered = (*privacy.accesses_not_covered, *privacy.not_covered)
    if uncovered:
        parts += ["Not covered:", "\n".join(f"- {escaped(each)}" for each in uncovered)]
    parts.append(f"Tuning, as declared: {escaped(short(privacy.tuning, _LONGEST))}.")
    if audited:
        parts.append(f"Audit without keys from elsewhere, when this card was written: {escaped(audited)}")
    return [part for part in parts if part]


def _data(report: Report, inputs: Inputs) -> list[str]:
    data = report.data
    trained = "unknown to the server" if data.train_records is None else count(data.train_records)
    rows = [
        ("source", str(report.config.get("data.source", ""))),
        ("a record", f"{data.kind}, {inputs.dtype} of shape {_shape(inputs.shape)}"),
        ("training records", trained),
        ("test records", count(data.test_records)),
        ("clients", count(data.clients)),
    ]
    if data.classes:
        rows.append(("classes" if data.target == "class" else "labels", listed(data.classes)))
    if data.features:
        rows.append(("columns", listed(data.features)))
    encoder = report.model.encoder
    if encoder is not None:
        rows.append(("encoder", f"{short(encoder.name, _NAMES)}, digest {encoder.digest}"))
    return [_table(Table(headings=("", ""), rows=rows))]


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _use(report: Report, inputs: Inputs, weights: str, network: Network | None) -> list[str]:
    described = (
        f"`inputs.json` says what the model takes and returns, for any program. A record is encoded: "
        f"{escaped(inputs.encoding)}. The model returns {escaped(inputs.outputs)}."
    )
    parts = [
        described,
        f"`{weights}` has the weights, to be loaded into the network of the task {_span(inputs.task)} in torch:",
        _code("python", "from safetensors.torch import load_file", "", f'weights = load_file("{weights}")'),
    ]
    if network is not None:
        taken = "records as they are stored" if network.takes == "records" else "what is computed of a record"
        shape = ", ".join(map(str, network.shape))
        parts += [
            f"`{network.file}` has the network too. It takes {taken}, `{network.dtype}` of shape (n, {shape}):",
            _code(
                "python",
                "import numpy as np",
                "import onnxruntime",
                "",
                f'session = onnxruntime.InferenceSession("{network.file}")',
                f"{network.takes} = np.zeros((1, {shape}), np.{network.dtype})",
                f'(outputs,) = session.run(None, {{"{network.takes}": {network.takes}}})',
            ),
        ]
    if (encoder := report.model.encoder) is not None:
        parts.append(f"The features come from the encoder {_span(encoder.name)}, which is not in these files.")
    if (public := report.model.public) is not None:
        parts.append(
            f"`{weights}` has what was trained alone. The other {count(public.parameters)} weights of the network are "
            f"public and frozen, and the task loads them: {_span(public.origin)}, digest {_span(public.digest)}."
        )
    return parts


def _statements(report: Report) -> list[str]:
    found = statements(report)
    intended = "" if said(report, "report.intended_use") else " It states no intended use."
    if not found:
        return ["## What the operator says", "Nothing."]
    rows = [(label, text) for label, text in found]
    return [
        "## What the operator says",
        f"Nobody verified it.{intended}",
        _table(Table(headings=("", "as stated"), rows=rows)),
    ]


def _provenance(report: Report, digest: str) -> str:
    return (
        f"Every number here is of `report.json` of the run, whose SHA-256 is `{digest}`. `fedtrain audit report.json "
        "--roster ROSTER`, with the public keys of the federation from a source that you trust, checks what it claims "
        f"about privacy. The run is {_span(report.run)}, trained with fedtrain {escaped(report.fedtrain)}."
    )


def _span(text: str) -> str:
    """Return a text as code in a line. It shows itself, and cannot end its span."""
    line = short(" ".join(text.split()), _NAMES)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if "`" in (line[:1], line[-1:]) else ""
    return f"{fence}{space}{line}{space}{fence}"


def _code(language: str, *lines: str) -> str:
    return "\n".join((f"```{language}", *lines, "```"))


def _table(table: Table) -> str:
    lines = [_row(table.headings), _row(["---"] * len(table.headings), raw=True)]
    return "\n".join((*lines, *(_row(row) for row in table.rows)))


def _row(cells: Sequence[str], *, raw: bool = False) -> str:
    return f"| {' | '.join(cells if raw else map(escaped, cells))} |"
