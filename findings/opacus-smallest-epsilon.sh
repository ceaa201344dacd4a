#!/usr/bin/env bash
# Opacus' RDP accountant never says less than 0.1 at delta 1e-5, and at delta 1/50 it says less than 0.
#
# Expected: epsilon falls towards 0 as the noise grows, as that of other RDP accountants, and is never below it.
# Seen: the orders end at 63. However much noise there is, epsilon stays at 0.103 for delta 1e-5, and at delta 1/50 it
# is negative. get_noise_multiplier uses this accountant unless told otherwise, and says of epsilon 0.1 that "the
# privacy budget is too low", where a noise multiplier of 3.75 is enough for the accountant "prv", which PrivacyEngine
# uses.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 opacus==1.6.0 numpy==2.4.6 dp-accounting==0.6.0

"$folder/venv/bin/python" -W ignore - <<'END'
import warnings
from importlib.metadata import version

from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.utils import get_noise_multiplier

warnings.simplefilter("ignore")
RATE, STEPS = 0.01, 100


def epsilons(sigma, delta):
    ours, peer = RDPAccountant(), RdpAccountant()
    ours.history = [(sigma, RATE, STEPS)]
    peer.compose(SelfComposedDpEvent(PoissonSampledDpEvent(RATE, GaussianDpEvent(sigma)), STEPS))
    return ours.get_epsilon(delta), peer.get_epsilon(delta)


print("opacus", version("opacus"), "dp-accounting", version("dp-accounting"))
for sigma in (10.0, 10000.0):
    for delta in (1e-5, 1 / 50):
        one, other = epsilons(sigma, delta)
        print(f"noise multiplier {sigma:5g}, delta {delta:g}: epsilon {one:.4f}; by dp-accounting, RDP {other:.4f}")
        assert one > 0.1 > other if delta == 1e-5 else one < 0 == other
try:
    get_noise_multiplier(target_epsilon=0.1, target_delta=1e-5, sample_rate=RATE, steps=STEPS)
    refused = ""
except ValueError as error:
    refused = str(error)
enough = get_noise_multiplier(
    target_epsilon=0.1, target_delta=1e-5, sample_rate=RATE, steps=STEPS, accountant="prv"
)
print(f"a noise multiplier for epsilon 0.1 at delta 1e-5: {refused!r}; with the accountant prv: {enough}")
assert refused == "The privacy budget is too low." and 3 < enough < 5
END
