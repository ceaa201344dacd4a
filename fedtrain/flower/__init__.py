"""Flower's side of fedtrain; and the protection that an existing Flower app gains in a few lines.

Public for other apps are the names below. Server and client import one `Protection`; the server wraps its grid with
`protect_grid`, and the client its app with `protect_client`.

Example:
    ```python
    PROTECTION = Protection(clients=10, secagg=SecAgg())

    app = protect_client(ClientApp(), PROTECTION, folder="~/.my-app")  # in client_app.py

    with protect_grid(grid, PROTECTION, folder="server", strategy=strategy) as protected:  # in server_app.py
        result = strategy.start(grid=protected, initial_arrays=arrays)
    ```
"""

from typing import TYPE_CHECKING

from fedtrain import imported_when_used

if TYPE_CHECKING:
    from fedtrain.flower.grids.protected import ProtectedGrid, protect_grid
    from fedtrain.flower.mods.protected import ProtectedClientApp, client_mods, protect_client
    from fedtrain.flower.participations import Spent
    from fedtrain.flower.protection import ClientPrivacy, Protection, SecAgg

__all__ = [
    "ClientPrivacy",
    "ProtectedClientApp",
    "ProtectedGrid",
    "Protection",
    "SecAgg",
    "Spent",
    "client_mods",
    "protect_client",
    "protect_grid",
]

_HOMES = {
    "fedtrain.flower.grids.protected": ("ProtectedGrid", "protect_grid"),
    "fedtrain.flower.mods.protected": ("ProtectedClientApp", "client_mods", "protect_client"),
    "fedtrain.flower.participations": ("Spent",),
    "fedtrain.flower.protection": ("ClientPrivacy", "Protection", "SecAgg"),
}


# The command line reads apps without Flower.
__getattr__ = imported_when_used(__name__, _HOMES)
