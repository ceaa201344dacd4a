#!/usr/bin/env bash
# dp-accounting's pessimistic privacy loss distributions give an epsilon below the truth at a small delta and many steps.
#
# Expected: an upper bound, as the documentation says of the pessimistic estimate, or an error where floats do not
# suffice.
# Seen: distributions are composed by transforms in double precision, and what they round is not bounded. An error of
# 1e-13 in a probability is much beside a delta of 1e-12. A million Gaussian releases of noise multiplier 1000, each on a
# sample of practically everybody, are together one of noise multiplier 1: epsilon at delta 1e-12 is said to be 6.97,
# and is 7.24.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile dp-accounting==0.6.0 numpy==2.4.6 scipy==1.17.1

"$folder/venv/bin/python" -W ignore - <<'END'
from importlib.metadata import version
from math import exp, log, log1p

from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from scipy.optimize import brentq
from scipy.stats import norm

NOISE, STEPS, DELTA, LEFT_OUT = 1000, 10**6, 1e-12, 1e-12
accountant = PLDAccountant()
accountant.compose(dp_event.PoissonSampledDpEvent(1 - LEFT_OUT, dp_event.GaussianDpEvent(NOISE)), STEPS)
said = accountant.get_epsilon(DELTA)

# The record is in every sample with the probability `always`. So the outputs with the record are at least that much of
# those of one Gaussian that the record shifts, and epsilon is no less than its own at delta / always, plus log(always).
shift = STEPS**0.5 / NOISE  # in deviations of the noise of the sum
always = exp(STEPS * log1p(-LEFT_OUT))


def delta(epsilon):
    """The exact delta of one Gaussian release (Balle and Wang 2018)."""
    return norm.cdf(shift / 2 - epsilon / shift) - exp(epsilon) * norm.cdf(-shift / 2 - epsilon / shift)


true = brentq(lambda epsilon: delta(epsilon) - DELTA / always, 1, 20, xtol=1e-12) + log(always)
print(f"dp-accounting {version('dp-accounting')}, {STEPS:,} releases of noise multiplier {NOISE:,}, delta {DELTA:g}:")
print(f"epsilon is said to be at most {said:.4f}, and is at least {true:.4f}")
assert said < true - 0.1
END
