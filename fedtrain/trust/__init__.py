"""Who is trusted to be whom: pinned identities, membership and session keys."""

from fedtrain.trust.directions import Authority, Directions, Former
from fedtrain.trust.membership import Membership
from fedtrain.trust.roster import Roster
from fedtrain.trust.session import SERVER, SessionKeys, SessionSecrets, client_name

__all__ = [
    "SERVER",
    "Authority",
    "Directions",
    "Former",
    "Membership",
    "Roster",
    "SessionKeys",
    "SessionSecrets",
    "client_name",
]
