"""Presidio, as fedtrain uses it: recognizers that are named one by one, no download, and no weak guesses."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fedtrain.deidentification.entities import BY_MODEL, PATTERNS, policy_of
from fedtrain.errors import ConfigError

LEAST: Final = 0.35
"""The least score of Presidio that counts: a phone number has 0.4, and what only looks a little like a thing less."""

ENGLISH: Final = "en"
"""The language of the patterns where no model says another."""


class Deidentifier:
    """Replaces entities in texts by their names in angle brackets.

    Args:
        entities: the policy; empty for the default one.
        model: an installed spaCy model, by its package or its folder; ``None`` for patterns alone.
        language: of the texts.

    Raises:
        ConfigError: Presidio is not installed, an entity, a language or a model cannot be used, or an entity of the
            policy is not found in its own test sentence.
    """

    def __init__(self, entities: tuple[str, ...] = (), *, model: str | None = None, language: str = ENGLISH) -> None:
        self.policy = policy_of(entities, has_model=model is not None)
        self.language = language
        if model is None and language != ENGLISH:
            raise ConfigError(
                f"--language {language} needs a spaCy model of that language (--model): the patterns alone are those "
                f'of "{ENGLISH}"'
            )
        _require_presidio()
        from presidio_anonymizer import AnonymizerEngine  # noqa: PLC0415 - an extra

        logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
        self._most: int | None = None
        self._analyzer = self._made(model)
        made: Any = AnonymizerEngine
        self._anonymizer = made()
        self._try_probes()

    def _made(self, model: str | None) -> Any:
        import tldextract.tldextract as suffixes  # noqa: PLC0415 - an extra
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry  # noqa: PLC0415
        from presidio_analyzer import predefined_recognizers as predefined  # noqa: PLC0415
        from presidio_analyzer.nlp_engine import NoOpNlpEngine  # noqa: PLC0415

        # The list of suffixes of domains that comes with the package is enough: nothing is fetched.
        suffixes.TLD_EXTRACTOR.suffix_list_urls = ()
        recognizers = [
            getattr(predefined, PATTERNS[name].recognizer)(supported_language=self.language)
            for name in self.policy
            if name in PATTERNS
        ]
        if model is None:
            engine: Any = NoOpNlpEngine(models=[{"lang_code": self.language, "model_name": "none"}])
            engine.load()
        else:
            engine = self._loaded(model)
            named = [name for name in self.policy if name in BY_MODEL]
            if named:
                recognizers.append(
                    predefined.SpacyRecognizer(supported_language=self.language, supported_entities=named)
                )
        registry = RecognizerRegistry(recognizers=recognizers, supported_languages=[self.language])
        return AnalyzerEngine(
            registry=registry, nlp_engine=engine, supported_languages=[self.language], default_score_threshold=LEAST
        )

    def _loaded(self, name: str) -> Any:
        """Return an engine with an installed model, which is never downloaded.

        Raises:
            ConfigError: it is not installed, of another language, or has no labels for an entity of the policy.
        """
        import spacy  # noqa: PLC0415 - an extra
        from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine  # noqa: PLC0415

        if not (spacy.util.is_package(name) or Path(name).is_dir()):
            raise ConfigError(
                f"--model {name}: no spaCy model of that name is installed, and there is no such folder; install one "
                "that you trust. fedtrain downloads none"
            )
        try:
            nlp: Any = spacy.load(name)
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(f"--model {name}: cannot be loaded as a spaCy model: {error}") from error
        if nlp.lang != self.language:
            raise ConfigError(f'--model {name} is of the language "{nlp.lang}"; set --language {nlp.lang}')
        labels = {
            label for part in ("ner", "entity_ruler") if nlp.has_pipe(part) for label in nlp.get_pipe(part).labels
        }
        for entity in self.policy:
            if entity in BY_MODEL and not labels & set(BY_MODEL[entity]):
                raise ConfigError(
                    f"--model {name} has no label for {entity}: it has {', '.join(sorted(labels)) or 'none'}; name the "
                    "entities with --entity"
                )
        mapping = {label: entity for entity, known in BY_MODEL.items() for label in known}
        engine: Any = SpacyNlpEngine(
            models=[{"lang_code": self.language, "model_name": name}],
            ner_model_configuration=NerModelConfiguration(
                model_to_presidio_entity_mapping=mapping, labels_to_ignore=sorted(labels - set(mapping))
            ),
        )
        engine.nlp = {self.language: nlp}
        self._most = nlp.max_length
        return engine

    def _try_probes(self) -> None:
        """Refuse a policy of which an entity is not found in its own test sentence.

        Raises:
            ConfigError: it is not.
        """
        for name in self.policy:
            if name in PATTERNS:
                probe = PATTERNS[name]
                if not any(
                    each.entity_type == name and probe.probe[each.start : each.end] == probe.found
                    for each in self._found(probe.probe)
                ):
                    raise ConfigError(
                        f"{name} is not found in its own test sentence, {probe.probe!r}: the installed Presidio does "
                        "not do what this policy says. Nothing was read"
                    )

    def _found(self, text: str) -> list[Any]:
        return list(self._analyzer.analyze(text, language=self.language, entities=list(self.policy)))

    def replaced(self, text: str) -> tuple[str, Mapping[str, int]]:
        """Return a text with each entity that was found replaced by its name, and how many of each there were.

        Raises:
            ValueError: the text is longer than the model takes.
        """
        if self._most is not None and len(text) > self._most:
            raise ValueError(f"a text of {len(text):,} characters, and the model takes at most {self._most:,}")
        done = self._anonymizer.anonymize(text, self._found(text))
        return done.text, Counter(item.entity_type for item in done.items)


def _require_presidio() -> None:
    try:
        import presidio_analyzer  # noqa: F401, PLC0415 - an extra
        import presidio_anonymizer  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError("de-identification needs Presidio: pip install 'fedtrain[deid]'") from error
