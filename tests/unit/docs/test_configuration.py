"""The tables of docs/reference/configuration.md are those of the experiment.

``python tests/unit/docs/test_configuration.py`` writes them anew.
"""

import json
from pathlib import Path

from fedtrain.config import Experiment, to_flat
from fedtrain.config.sections import Section

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"
BEGIN, END = "<!-- fields:begin -->\n", "<!-- fields:end -->\n"
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def tables(section=Experiment, prefix=""):
    """Write a heading, what it is about and a table of the fields, for a section and then for those in it."""
    schema = section.model_json_schema()["properties"]
    lines = [f"## {prefix.removesuffix('.') or 'At the top'}", "", section.__doc__.splitlines()[0], ""]
    lines += ["| field | type | default | allowed | description |", "| --- | --- | --- | --- | --- |"]
    inner = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            inner.append((field.annotation, f"{prefix}{name}."))
            continue
        facts = next((kind for kind in schema[name].get("anyOf", ()) if kind["type"] != "null"), schema[name])
        default = "unset" if field.default is None else f"`{json.dumps(field.default)}`"
        cells = (f"`{prefix}{name}`", facts["type"], default, allowed(facts), field.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    parts = ["\n".join([*lines, ""])]
    parts += [tables(kind, nested) for kind, nested in inner]
    return "\n".join(parts)


def allowed(facts):
    """Write the values that a field takes, besides its type."""
    if "enum" in facts:
        return ", ".join(f"`{json.dumps(value)}`" for value in facts["enum"])
    return ", ".join(f"{sign} {facts[bound]}" for bound, sign in BOUNDS.items() if bound in facts)


def split(page):
    """Return the page before, within and after the tables."""
    head, _, rest = page.partition(BEGIN)
    body, _, tail = rest.partition(END)
    return head, body, tail


def test_the_page_has_exactly_the_tables_of_the_experiment():
    assert split(PAGE.read_text())[1] == tables()


def test_the_tables_have_each_field_once():
    rows = [line.split("`")[1] for line in tables().splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(to_flat(Experiment()))


if __name__ == "__main__":
    before, _, after = split(PAGE.read_text())
    PAGE.write_text(f"{before}{BEGIN}{tables()}{END}{after}")
