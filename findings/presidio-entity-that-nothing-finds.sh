#!/usr/bin/env bash
# Presidio lists AGE among the entities that it supports, and finds none where the model has no label for ages.
#
# Expected: an entity that no recognizer can find is not listed, or asking for it raises an error, as asking for an unknown
# one does ("No matching recognizers were found to serve the request"). The labels of the spaCy model are known.
# Seen: get_supported_entities lists AGE, ID and EMAIL, although the one label of the model is PERSON and no predefined
# recognizer finds these. They are the values of the default mapping of labels. analyze returns an empty list for each,
# without an error. Whoever makes a policy of de-identification from the list believes that ages are looked for.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile presidio-analyzer==2.2.366 spacy==3.8.18

"$folder/venv/bin/python" -W ignore - <<'EOF'
from importlib.metadata import version

import spacy
from presidio_analyzer import AnalyzerEngine
from presidio_analyzer.nlp_engine import SpacyNlpEngine

nlp = spacy.blank("en")
nlp.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Jane Roe"}])
engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "names"}])
engine.nlp = {"en": nlp}
analyzer = AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
text = "Jane Roe, aged 93, is a 93-year-old patient. Age: 93."


def found(entity):
    return [text[each.start : each.end] for each in analyzer.analyze(text, language="en", entities=[entity])]


print("presidio-analyzer", version("presidio-analyzer"), "with a model whose labels are", nlp.get_pipe("entity_ruler").labels)
listed = {"AGE", "ID", "EMAIL"} & set(analyzer.get_supported_entities("en"))
print("listed as supported:", sorted(listed))
results = {entity: found(entity) for entity in ("PERSON", "AGE", "ID", "EMAIL")}
print("found:", results)
try:
    found("SHOE_SIZE")
    refused = False
except ValueError as error:
    refused = True
    print("SHOE_SIZE:", error)
silent = results == {"PERSON": ["Jane Roe"], "AGE": [], "ID": [], "EMAIL": []}
raise SystemExit(0 if listed == {"AGE", "ID", "EMAIL"} and silent and refused else 1)
EOF
