"""The tables of docs/reference/report.md are those of the report.

``python tests/unit/report/test_reference.py`` writes them anew.
"""

import re
from pathlib import Path
from typing import get_args

import fedtrain.report
from fedtrain.report.parts import Part

PAGE = Path(__file__).parents[3] / "docs/reference/report.md"
BEGIN, END = "<!-- parts:begin -->\n", "<!-- parts:end -->\n"
NAMED = (getattr(fedtrain.report, name) for name in fedtrain.report.__all__)
PARTS = {part for part in NAMED if isinstance(part, type) and issubclass(part, Part)}


def nested(annotation, path):
    """Give each part that a type holds, with its path."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation, path
    for inner in get_args(annotation):
        yield from nested(inner, path if type(None) in get_args(annotation) else f"{path}[]")


def paths():
    """Give each part with all paths that lead to it, outer ones first."""
    found, waiting = {}, [(fedtrain.report.Report, "")]
    while waiting:
        part, path = waiting.pop(0)
        found.setdefault(part, []).append(path)
        inner = []
        for name, field in part.model_fields.items():
            inner += nested(field.annotation, f"{path}.{name}".removeprefix("."))
        waiting = inner + waiting
    return found


def kind(schema):
    """Say in words what JSON Schema says of a field."""
    if "anyOf" in schema:
        return " or ".join(map(kind, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return " or ".join(f'`"{value}"`' for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        items = kind(schema["items"])
        first, _, rest = items.partition(" ")
        return f"list of {first}s {rest}".rstrip()
    return "date and time" if schema.get("format") == "date-time" else schema.get("type", "object")


def section(part, places):
    """Write a heading, what the part is about, and a table of its fields."""
    heading = ", ".join(f"`{place}`" for place in places if place) or "The whole report"
    about = re.sub(r"(?<=\S)\n[ ]+(?=\S)", " ", part.__doc__.replace("``", "`").strip()).replace("\n    ", "\n")
    fields = part.model_json_schema(by_alias=True)["properties"]
    rows = [f"| `{name}` | {kind(schema)} | {schema['description']} |" for name, schema in fields.items()]
    table = ["| field | type | meaning |", "| --- | --- | --- |", *rows]
    return "\n".join([f"## {heading}", "", about, "", *table, ""])


def tables():
    return "\n".join(section(part, dict.fromkeys(places)) for part, places in paths().items())


def split(page):
    """Return the page before, within and after the tables."""
    head, _, rest = page.partition(BEGIN)
    body, _, tail = rest.partition(END)
    return head, body, tail


def test_the_page_has_exactly_the_tables_of_the_report():
    assert split(PAGE.read_text())[1] == tables()


def test_every_part_that_the_package_names_is_in_the_report():
    assert set(paths()) == PARTS


if __name__ == "__main__":
    before, _, after = split(PAGE.read_text())
    PAGE.write_text(f"{before}{BEGIN}{tables()}{END}{after}")
