"""What the page about tables shows runs as it stands."""

import re
from pathlib import Path

from fedtrain.config import Data
from fedtrain.config.toml import parse_toml
from fedtrain.data.schema import schema_of
from fedtrain.data.sources import source_of

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "tables.md"
ROWS = """age,ward,smoker,admitted,hospital,remark,outcome
130,north,yes,2025-12-31,A,,well
40,,no,2020-01-01,B,"late, again",ill
"""


def blocks():
    return re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_schema_on_the_page_reads_a_table(tmp_path):
    (tmp_path / "people_schema.toml").write_text(blocks()[0])
    (tmp_path / "people.csv").write_text(ROWS)
    section = parse_toml(blocks()[1].encode())["data"]
    places = {name: str(tmp_path / section[name]) for name in ("path", "schema_file")}
    decoded = source_of("csv").decode(Data.model_validate(section | places))
    assert decoded.train.features[0, 0] == 1
    assert decoded.train.targets.tolist() == [0, 1]


def test_the_digest_on_the_page_is_that_of_the_schema():
    assert f'schema_digest = "{schema_of(parse_toml(blocks()[0].encode())).digest}"' in PAGE.read_text()


def test_every_kind_and_every_field_of_files_is_on_the_page():
    from fedtrain.data.schema import CsvFormat
    from fedtrain.data.schema_columns import COLUMN_KINDS

    page = PAGE.read_text()
    rows = set(re.findall(r"^\| `(\w[\w-]*)` \|", page, flags=re.MULTILINE))
    assert rows == {*COLUMN_KINDS, *CsvFormat.model_fields}
