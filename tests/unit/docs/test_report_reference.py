"""The tables of docs/reference/report.md are those of the report's models.

``python tests/unit/docs/test_report_reference.py`` writes them anew.
"""

import re
from pathlib import Path

from fedtrain.report import Report

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "report.md"
BEGIN, END = "<!-- fields:begin -->\n", "<!-- fields:end -->\n"


def kind(facts):
    """Write a JSON type in words."""
    if "$ref" in facts:
        return f"[{facts['$ref'].rsplit('/', 1)[-1]}](#{facts['$ref'].rsplit('/', 1)[-1].lower()})"
    if "anyOf" in facts:
        return " or ".join(kind(choice) for choice in facts["anyOf"])
    if "const" in facts or "enum" in facts:
        return ", ".join(f"`{value}`" for value in facts.get("enum", [facts.get("const")]))
    if facts.get("type") == "array":
        return f"list of {kind(facts['items'])}" if "items" in facts else "list"
    if facts.get("type") == "object":
        return f"mapping to {kind(facts['additionalProperties'])}"
    return facts.get("type", "any")


def tables():
    schema = Report.model_json_schema()
    parts = []
    for name, model in [("Report", schema), *sorted(schema["$defs"].items())]:
        if "properties" not in model:
            continue
        lines = [f"## {name}", "", model["description"].splitlines()[0], ""]
        lines += ["| field | type | description |", "| --- | --- | --- |"]
        lines += [f"| `{key}` | {kind(facts)} | {facts['description']} |" for key, facts in model["properties"].items()]
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


def split(page):
    head, _, rest = page.partition(BEGIN)
    body, _, tail = rest.partition(END)
    return head, body, tail


def test_the_page_has_exactly_the_tables_of_the_report():
    assert split(PAGE.read_text())[1] == tables()


def test_each_link_inside_the_page_leads_to_a_heading():
    text = PAGE.read_text()
    headings = {heading.lower() for heading in re.findall(r"^## (\w+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\(#(\w+)\)", text)) <= headings


if __name__ == "__main__":
    before, _, after = split(PAGE.read_text())
    PAGE.write_text(f"{before}{BEGIN}{tables()}{END}{after}")
