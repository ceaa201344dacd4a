"""The entities that can be looked for, each with a sentence in which it must be found before any text is touched.

Presidio lists entities that no recognizer of it finds, such as AGE. So a policy is made of these alone.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from fedtrain.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Entity:
    """An entity that patterns find.

    Attributes:
        recognizer: the class of Presidio that finds it.
        probe: a sentence that has one.
        found: the part of the sentence that is one.
    """

    recognizer: str
    probe: str
    found: str


PATTERNS: Final[dict[str, Entity]] = {
    "EMAIL_ADDRESS": Entity(
        recognizer="EmailRecognizer", probe="Write to jane.roe@example.org today.", found="jane.roe@example.org"
    ),
    "PHONE_NUMBER": Entity(
        recognizer="PhoneRecognizer", probe="Her number is +44 20 7946 0958, she said.", found="+44 20 7946 0958"
    ),
    "CREDIT_CARD": Entity(
        recognizer="CreditCardRecognizer", probe="Paid with 4012888888881881 last week.", found="4012888888881881"
    ),
    "IBAN_CODE": Entity(
        recognizer="IbanRecognizer", probe="Send it to DE89370400440532013000 please.", found="DE89370400440532013000"
    ),
    "IP_ADDRESS": Entity(recognizer="IpRecognizer", probe="It came from 192.0.2.17 at night.", found="192.0.2.17"),
    "MAC_ADDRESS": Entity(
        recognizer="MacAddressRecognizer", probe="The card 00:1B:44:11:3A:B7 was seen.", found="00:1B:44:11:3A:B7"
    ),
    "URL": Entity(
        recognizer="UrlRecognizer",
        probe="See https://www.example.org/jane for more.",
        found="https://www.example.org/jane",
    ),
    "DATE_TIME": Entity(recognizer="DateRecognizer", probe="She was admitted on 2021-03-14 here.", found="2021-03-14"),
    "CRYPTO": Entity(
        recognizer="CryptoRecognizer",
        probe="Coins went to 16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ then.",
        found="16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ",
    ),
    "UUID": Entity(
        recognizer="UuidRecognizer",
        probe="The ticket is 123e4567-e89b-42d3-a456-426614174000 now.",
        found="123e4567-e89b-42d3-a456-426614174000",
    ),
    "US_SSN": Entity(recognizer="UsSsnRecognizer", probe="Her number is 219-09-9998 there.", found="219-09-9998"),
    "UK_NHS": Entity(recognizer="NhsRecognizer", probe="Patient 401-023-2137 came back.", found="401-023-2137"),
}
"""What patterns find, and checksums where there are any."""

BY_MODEL: Final[dict[str, tuple[str, ...]]] = {
    "PERSON": ("PERSON", "PER", "PRS", "persName"),
    "LOCATION": ("LOC", "GPE", "LOCATION", "FAC", "placeName", "geogName"),
    "ORGANIZATION": ("ORG", "ORGANIZATION", "orgName"),
    "NRP": ("NORP", "NRP"),
}
"""What a spaCy model finds, with the labels that models have for it."""

DEFAULT: Final = tuple(name for name in PATTERNS if name not in {"UUID", "US_SSN", "UK_NHS"})
"""The policy where none is named."""

MODEL_DEFAULT: Final = ("PERSON", "LOCATION")
"""What the policy has besides where there is a model."""

_NO_RECOGNIZER: Final = ("AGE", "ID", "EMAIL", "PATIENT", "STAFF")


def known() -> tuple[str, ...]:
    """Return every entity that a policy can name."""
    return (*PATTERNS, *BY_MODEL)


def policy_of(names: tuple[str, ...], *, has_model: bool) -> tuple[str, ...]:
    """Return the entities that are looked for, each once.

    Args:
        names: those that were named; empty for the default policy.
        has_model: whether a spaCy model looks for names and places.

    Raises:
        ConfigError: an entity is not known, or needs a model.
    """
    if not names:
        return (*DEFAULT, *MODEL_DEFAULT) if has_model else DEFAULT
    for name in names:
        if name in _NO_RECOGNIZER:
            raise ConfigError(
                f"--entity {name}: Presidio lists it, and no recognizer of it finds any: none is replaced"
            )
        if name not in known():
            close = get_close_matches(name.upper(), known(), n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise ConfigError(f"--entity {name} is not known{hint} Allowed: {', '.join(known())}")
        if name in BY_MODEL and not has_model:
            raise ConfigError(
                f"--entity {name} is found only by a spaCy model: install one, and name it with --model. fedtrain "
                "downloads none"
            )
    return tuple(dict.fromkeys(names))
