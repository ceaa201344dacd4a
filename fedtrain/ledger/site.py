"""What a client allows: read from a file on its own machine, and never from a message."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedtrain.errors import SiteError

Mode = Literal["none", "record", "client"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SitePolicy(_Part):
    """The limits that a client keeps.

    Attributes:
        epsilon: budget of each data set, over all runs.
        delta: the delta of the budget.
        minimum_noise: the least noise multiplier that is allowed.
        modes: the privacy modes that are allowed.
    """

    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    minimum_noise: Annotated[float, Field(ge=0)] = 0.0
    modes: Annotated[tuple[Mode, ...], Field(strict=False)] = ("record", "client")


class _Budget(_Part):
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]


class _Policy(_Part):
    minimum_noise: Annotated[float, Field(ge=0)] = 0.0
    modes: Annotated[tuple[Mode, ...], Field(strict=False)] = ("record", "client")


class _Site(_Part):
    budget: _Budget
    policy: _Policy = _Policy()


def read_policy(path: Path) -> SitePolicy:
    """Read a site file.

    Raises:
        SiteError: it is missing or unreadable, is not TOML, or has a field that is missing, unknown or not allowed.
    """
    try:
        site = _Site.model_validate(tomllib.loads(path.read_bytes().decode()))
    except OSError as error:
        raise SiteError(f"cannot read the site file {path}: {error.strerror or error}") from error
    except ValidationError as error:
        problems = "\n".join(
            f"  {'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors(include_url=False)
        )
        raise SiteError(
            f"the site file {path} cannot be used:\n{problems}\nit has [budget] epsilon and delta, and may have "
            "[policy] minimum_noise and modes"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SiteError(f"the site file {path} is not TOML: {error}") from error
    return SitePolicy(**site.budget.model_dump(), **site.policy.model_dump())
