"""Sealed messages and secure aggregation in Flower: grids around grids on the server, mods at the client.

Server: ``strategy -> SecAggGrid -> ... -> SealedGrid -> the runtime's grid``. Client: ``sealed_mod``, ``session_mod``,
``secagg_mod``, then whatever makes the update. Each of the two layers works without the other.
"""

from fedtrain.flower.transport.endpoint import Endpoint, OpenEndpoint
from fedtrain.flower.transport.sealed_grid import SealedGrid
from fedtrain.flower.transport.sealed_mod import sealed_mod
from fedtrain.flower.transport.secagg_grid import SecAggGrid
from fedtrain.flower.transport.secagg_mod import secagg_mod
from fedtrain.flower.transport.session import ServerSession, end_session, meet_members, open_session
from fedtrain.flower.transport.session_mod import session_mod
from fedtrain.flower.transport.summing import Outcome, Summing
from fedtrain.flower.transport.vector import Layout, Total

__all__ = [
    "Endpoint",
    "Layout",
    "OpenEndpoint",
    "Outcome",
    "SealedGrid",
    "SecAggGrid",
    "ServerSession",
    "Summing",
    "Total",
    "end_session",
    "meet_members",
    "open_session",
    "sealed_mod",
    "secagg_mod",
    "session_mod",
]
