import re
from pathlib import Path

import pytest

import fedtrain.report
from fedtrain.report.base import Part

TEXT = (Path(__file__).parents[3] / "docs/reference/report.md").read_text()
PARTS = {
    name: part for name, part in vars(fedtrain.report).items() if isinstance(part, type) and issubclass(part, Part)
}


def tables():
    """Read the tables of fields, by the first sentence above each."""
    found = {}
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE):
        rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", section, flags=re.MULTILINE)
        if rows:
            found[section.split("\n")[2]] = {name: (kind, meaning) for name, kind, meaning in rows}
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


@pytest.mark.parametrize("name", sorted(PARTS))
def test_every_field_is_documented_as_it_is(name):
    part = PARTS[name]
    fields = part.model_json_schema(by_alias=True)["properties"]
    expected = {field: (kind(schema), schema["description"]) for field, schema in fields.items()}
    heading = part.__doc__.split("\n")[0].replace("``", "`")
    assert tables()[heading] == expected


def test_no_part_is_documented_that_is_not_there():
    assert len(tables()) == len(PARTS) == 15
