"""How templates of pages are filled in: the same for a report, an audit and an explanation."""

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedtrain.report.numbers import shown


def page_environment(**filters: Callable[..., object]) -> Environment:
    """Return an environment for the templates of pages, with filters by name.

    What a template is given is escaped, and what it is not given is an error.
    """
    environment = Environment(
        loader=PackageLoader("fedtrain.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    environment.filters.update(filters)
    return environment
