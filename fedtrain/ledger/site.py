"""What a client allows: read from a file on its own machine, and never from a message.

A simulated client has a folder of its own in the folder of all sites, or in that of the run. A client on a machine of
its own has one such folder, and no other.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedtrain.config import Experiment
from fedtrain.config.privacy import Mode, Trust
from fedtrain.config.toml import parse_toml
from fedtrain.errors import ConfigError, SiteError, StorageError
from fedtrain.ledger.entry import Noise
from fedtrain.ledger.statement import CalledBy

SITE_FILE = "site.toml"

_FOLDER = re.compile(r"client-([0-9]{4,})")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SitePolicy(_Part):
    """The limits that a client keeps.

    Attributes:
        epsilon: budget of each data set, over all runs.
        delta: the delta of the budget.
        minimum_noise: the least noise multiplier that is allowed.
        trust: who may add the noise, of the values of ``privacy.trust``. Noise that clients share is allowed where the
            file says so: it protects as long as others keep to the protocol.
        colluders: the least number of colluding members that shared noise has to allow for.
        tasks: names of the tasks that are allowed; ``None`` if any is.
        encoders: names of the encoders that are allowed; ``None`` if any is where ``tasks`` is ``None``, and else those
            that are built in.
        modes: the privacy modes that are allowed; "none" is training without privacy.
        noise: where noise may come from.
        sealed: whether the client answers sealed messages only; ``None`` if the file does not say.
        secagg: whether it sends masked updates only; ``None`` if the file does not say.
        minimum_cohort: the least number of clients whose sum it is part of, in secure aggregation.
    """

    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    minimum_noise: Annotated[float, Field(ge=0)] = 0.0
    trust: Annotated[tuple[Trust, ...], Field(strict=False)] = ("local", "central")
    colluders: Annotated[int, Field(ge=0)] = 0
    tasks: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    encoders: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    modes: Annotated[tuple[Mode, ...], Field(strict=False)] = ("record", "client")
    noise: Annotated[tuple[Noise, ...], Field(strict=False)] = ("seeded", "secure")
    sealed: bool | None = None
    secagg: bool | None = None
    minimum_cohort: Annotated[int, Field(ge=2)] = 2


class _Budget(_Part):
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]


class _Policy(_Part):
    minimum_noise: Annotated[float, Field(ge=0)] = 0.0
    trust: Annotated[tuple[Trust, ...], Field(strict=False)] = ("local", "central")
    colluders: Annotated[int, Field(ge=0)] = 0
    tasks: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    encoders: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    modes: Annotated[tuple[Mode, ...], Field(strict=False)] = ("record", "client")
    noise: Annotated[tuple[Noise, ...], Field(strict=False)] = ("seeded", "secure")


class _Transport(_Part):
    sealed: bool | None = None
    secagg: bool | None = None
    minimum_cohort: Annotated[int, Field(ge=2)] = 2


class _Itself(_Part):
    name: CalledBy | None = None


class _Site(_Part):
    site: _Itself = _Itself()
    budget: _Budget
    policy: _Policy = _Policy()
    transport: _Transport = _Transport()
    # Where the site's records are: fedtrain.data.site reads it.
    data: dict[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class SiteFile:
    """A site file, read once.

    Attributes:
        path: where it is.
        policy: the limits that the client keeps.
        data: the section ``[data]`` as it is written; ``None`` if there is none.
        name: what the site allows to be called by in reports; ``None`` where it allows no name.
    """

    path: Path
    policy: SitePolicy
    data: Mapping[str, object] | None
    name: str | None = None


def read_policy(path: Path) -> SitePolicy:
    """Read the limits in a site file.

    Raises:
        SiteError: as `read_site_file`.
    """
    return read_site_file(path).policy


def read_site_file(path: Path) -> SiteFile:
    """Read a site file.

    Raises:
        SiteError: it is missing or unreadable, is not TOML, or has a field that is missing, unknown or not allowed.
    """
    try:
        return _parsed(path, path.read_bytes())
    except OSError as error:
        raise SiteError(f"cannot read the site file {path}: {error.strerror or error}") from error


def find_policy(folder: Path) -> SitePolicy | None:
    """Read the limits in the site file of a client, as `find_site_file` finds it.

    Raises:
        SiteError: as `read_site_file`.
    """
    found = find_site_file(folder)
    return None if found is None else found.policy


def find_site_file(folder: Path) -> SiteFile | None:
    """Read the site file of a client: ``site.toml`` in its folder, or else in the folder above, which is for all.

    Returns ``None`` if neither is there. A file that is there and cannot be read is never passed over.

    Raises:
        SiteError: as `read_site_file`.
    """
    for path in (folder / SITE_FILE, folder.parent / SITE_FILE):
        try:
            return _parsed(path, path.read_bytes())
        except FileNotFoundError:
            if path.is_symlink():
                raise SiteError(f"the site file {path} is a link to a file that is not there") from None
        except OSError as error:
            raise SiteError(f"cannot read the site file {path}: {error.strerror or error}") from error
    return None


def find_policies(experiment: Experiment) -> None:
    """Read every site file that a client of a simulation would find, to refuse what is wrong with one.

    Only folders that are there are looked at: a client without one has the site file of all, if there is one.

    Raises:
        ConfigError: as `client_folder`.
        SiteError: as `read_site_file`.
    """
    find_policy(client_folder(experiment, 0))
    for folder in _client_folders(experiment).values():
        find_policy(folder)


def clients_with_ledgers(experiment: Experiment) -> frozenset[int]:
    """Return the clients of a simulation that have a ledger, of whatever run and data set.

    Every other one has spent nothing that a ledger in these folders could show.

    Raises:
        ConfigError: as `client_folder`.
        StorageError: a folder cannot be read.
    """
    found = set()
    for client, folder in _client_folders(experiment).items():
        try:
            if any(file.suffix in {".jsonl", ".intent"} for file in (folder / "ledgers").iterdir()):
                found.add(client)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StorageError(f"cannot read {folder / 'ledgers'}: {error.strerror or error}") from error
    return frozenset(found)


def _client_folders(experiment: Experiment) -> dict[int, Path]:
    """Return the folders of clients that are there, by one look at the folder of all."""
    sites = client_folder(experiment, 0).parent
    try:
        names = {entry.name for entry in sites.iterdir()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"cannot read {sites}: {error.strerror or error}") from error
    numbers = sorted(int(found[1]) for name in names if (found := _FOLDER.fullmatch(name)))
    folders = {
        client: client_folder(experiment, client) for client in numbers if client < experiment.federation.clients
    }
    return {client: folder for client, folder in folders.items() if folder.name in names}


def _parsed(path: Path, data: bytes) -> SiteFile:
    try:
        site = _Site.model_validate(parse_toml(data))
    except ValidationError as error:
        problems = "\n".join(
            f"  {'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors(include_url=False)
        )
        raise SiteError(
            f"the site file {path} cannot be used:\n{problems}\nit has [budget] epsilon and delta, and may have "
            "[policy] minimum_noise, trust, colluders, tasks, encoders, modes and noise, [transport] sealed, secagg "
            "and minimum_cohort, [site] name, and [data]"
        ) from error
    except ValueError as error:
        raise SiteError(f"the site file {path} is not TOML: {error}") from error
    policy = SitePolicy(**site.budget.model_dump(), **site.policy.model_dump(), **site.transport.model_dump())
    return SiteFile(path=path, policy=policy, data=site.data, name=site.site.name)


def client_folder(experiment: Experiment, client: int) -> Path:
    """Return the folder of one client's files: its keys, its ledgers, its site file.

    Raises:
        ConfigError: neither the folder of all sites nor the run folder is named.
    """
    if experiment.federation.sites is not None:
        sites = Path(experiment.federation.sites)
    elif experiment.output.directory is not None:
        sites = Path(experiment.output.directory) / "clients"
    else:
        raise ConfigError(
            "a client's ledger needs a place that outlasts the run: set federation.sites, or output.directory (--out)"
        )
    return sites / f"client-{client:04d}"
