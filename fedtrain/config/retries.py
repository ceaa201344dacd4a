"""When a round that was lost may be asked again in the same run (``federation.retries``).

With secure noise a round that is asked again is another release: each client that is asked reserves it again, and
nothing of the first attempt is given back. So a run needs room for it in what a client may take part in. Where the
accounting relies on who is asked when, no round is asked twice.
"""

from fedtrain.config.privacy import Privacy
from fedtrain.config.sections import Federation


def check_retries(federation: Federation, privacy: Privacy) -> None:
    """Refuse retries that the guarantee does not allow, or for which it leaves no room.

    Raises:
        ValueError: likewise.
    """
    if not federation.retries or privacy.mode == "none":
        return
    given = f"federation.retries = {federation.retries}"
    if privacy.secret_cohorts:
        raise ValueError(
            f"{given} is not for secret cohorts: that a round is asked again tells that somebody who was drawn did not "
            'answer. Set federation.retries = 0, or privacy.cohorts = "capped"'
        )
    if privacy.mechanism == "banded":
        raise ValueError(
            f'{given} is not for privacy.mechanism = "banded": the noise relies on privacy.separation rounds from one '
            "participation of a client to its next, and a round that is asked again has none. Set federation.retries "
            "to 0"
        )
    most, rounds = privacy.max_participations or federation.rounds, federation.rounds
    needed = -(-federation.cohort * (rounds + 1) // federation.clients)
    if privacy.noise == "secure" and most < needed:
        raise ValueError(
            f"{given}, and the noise leaves no room for it: {rounds} rounds of {federation.cohort} clients take all "
            f"that {federation.clients} clients may take part in, and with secure noise a round that is asked again is "
            f"charged again. Set privacy.max_participations to {needed} or more, which means more noise, or "
            "federation.retries = 0"
        )
