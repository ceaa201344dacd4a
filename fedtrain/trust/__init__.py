"""Who is trusted to be whom: pinned identities, membership, session keys, and commitments to what was sent."""

from fedtrain.trust.commitment import commit, nonce_of
from fedtrain.trust.membership import Membership
from fedtrain.trust.roster import Roster
from fedtrain.trust.session import SERVER, SessionKeys, SessionSecrets, client_name

__all__ = [
    "SERVER",
    "Membership",
    "Roster",
    "SessionKeys",
    "SessionSecrets",
    "client_name",
    "commit",
    "nonce_of",
]
