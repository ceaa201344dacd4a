"""De-identification of a column of texts before training, by patterns and, where one is installed, a spaCy model.

from pathlib import Path

from fedtrain.deidentification import deidentify

done = deidentify(Path("notes.csv"), Path("notes-out.csv"), column="text")
done.replaced  # {"EMAIL_ADDRESS": 12, ...}
"""

from fedtrain.deidentification.entities import DEFAULT, MODEL_DEFAULT, known
from fedtrain.deidentification.files import Deidentified, deidentify

__all__ = ["DEFAULT", "MODEL_DEFAULT", "Deidentified", "deidentify", "known"]
