"""What NVFlare's filters say: run by claims.py with the Python of an environment that has NVFlare and NumPy alone.

Prints one JSON array of measurements; claims.py turns them into bounds.
"""

import json
import logging
from importlib.metadata import version
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy
from nvflare.app_common.filters.svt_privacy import SVTPrivacy

Array = np.ndarray[Any, Any]
GAMMA = 1.0


def main() -> None:
    logging.disable(logging.CRITICAL)
    print(json.dumps({"version": version("nvflare"), **runs(), **steps(), **percentile(), **seed(), **scalar()}))


def filtered(privacy: Any, values: Array, *, steps: int = 1) -> Array:
    """Return what a filter lets through of one array."""
    dxo = DXO(data_kind=DataKind.WEIGHT_DIFF, data={"w": values}, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: steps})
    return np.asarray(privacy.process_dxo(dxo, Shareable(), FLContext()).data["w"])


def svt(**given: float) -> SVTPrivacy:
    return SVTPrivacy(epsilon=0.1, gamma=GAMMA, tau=0.1, fraction=1.0, **given)


def runs(count: int = 3) -> dict[str, float]:
    """Release one number in each of several runs, and ask the accountant after the last one."""
    privacy = svt(epsilon_release=1.0)
    released = []
    for _ in range(count):
        privacy.handle_event(EventType.START_RUN, FLContext())
        released.append(filtered(privacy, np.array([GAMMA])))
    # The scale of the noise: the mean of the absolute deviations of many releases.
    scale = float(np.mean([abs(filtered(svt(epsilon_release=1.0), np.array([0.0]))[0]) for _ in range(4000)]))
    return {"runs": len(released), "runs_claimed": privacy.get_privacy_spent(), "runs_scale": scale / (2 * GAMMA)}


def steps(count: int = 4000) -> dict[str, float]:
    """Release an update of zeros of a client that took 10 steps, and of one that took 11."""
    np.random.seed(1)  # noqa: NPY002 - the generator that NVFlare draws from
    spread = []
    for number in (10, 11):
        privacy = svt(epsilon_release=1.0)
        released = filtered(privacy, np.zeros(count), steps=number)
        spread.append(float(np.mean(np.abs(released[released != 0]))))
        noisy = int((released != 0).sum())
    return {"steps_claimed": privacy.get_privacy_spent(), "steps_ratio": spread[1] / spread[0], "steps_count": noisy}


def percentile() -> dict[str, bool]:
    """Filter the same update twice, and another one."""
    update = np.linspace(-1.0, 1.0, 100)
    first, again, other = (filtered(PercentilePrivacy(gamma=GAMMA), each) for each in (update, update, update / 2))
    return {"percentile_repeats": bool((first == again).all() and not (first == other).all())}


def seed() -> dict[str, Any]:
    """Filter the same update twice after `np.random.seed`."""
    found = []
    for _ in range(2):
        privacy = svt(epsilon_release=1.0)
        np.random.seed(42)  # noqa: NPY002 - the generator that NVFlare draws from
        found.append(filtered(privacy, np.linspace(-1.0, 1.0, 100)))
    return {"seed_claimed": privacy.get_privacy_spent(), "seed_repeats": bool((found[0] == found[1]).all())}


def scalar() -> dict[str, Any]:
    """Filter an update that has a number without dimensions beside an array."""
    privacy = svt(epsilon_release=1.0)
    data = {"temperature": np.float64(GAMMA / 8), "w": np.zeros(10)}
    made = privacy.process_dxo(DXO(data_kind=DataKind.WEIGHT_DIFF, data=data), Shareable(), FLContext()).data
    return {
        "scalar_claimed": privacy.get_privacy_spent(),
        "scalar_passes": bool(made["temperature"] == GAMMA / 8),
        "scalar_noted": bool(privacy.get_privacy_ledger()[-1]["has_scalar_passthrough"]),
    }


if __name__ == "__main__":
    main()
