"""Options that several commands have: ``--set``, with the completion of its keys in a shell, and ``--workers``.

Every command has ``--json`` and ``--quiet``.
"""

from typing import Annotated

import typer


def completed(incomplete: str) -> list[tuple[str, str]]:
    """Return how a setting that is being typed can go on, each with what it means: a key, or after ``=`` a value.

    >>> completed("privacy.noi")[0][0]
    'privacy.noise_multiplier='
    """
    from fedtrain.config.described import described  # noqa: PLC0415 - only where somebody completes

    key, equals, begun = incomplete.partition("=")
    if not equals:
        return [(f"{field.key}=", field.about) for field in described().values() if field.key.startswith(key)]
    field = described().get(key)
    values = () if field is None else field.values
    return [(f"{key}={value}", "") for quoted in values if (value := quoted.strip('"')).startswith(begun)]


Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="One value, over the file's. Repeatable.", autocompletion=completed
    ),
]
"""Values over those of a file, each as ``key=value``."""

Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Worker processes; by default as many as the machine or container has cores and memory for.",
        show_default=False,
    ),
]
"""How many processes run the clients of a simulation."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
"""Standard output has an object alone; an error is one too."""

JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object on a line for each event.")]
"""Likewise for a service, which tells of what changes."""

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but results and errors.")]
"""What a person is told on the way is left out."""
