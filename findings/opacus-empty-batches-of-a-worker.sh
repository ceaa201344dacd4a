#!/usr/bin/env bash
# Opacus' sampler for several workers leaves empty batches out, and that for one worker does not.
#
# Expected: as many batches as len() says, some of them empty, as UniformWithReplacementSampler makes them and as the
# accounting of Poisson samples has them.
# Seen: DistributedUniformWithReplacementSampler yields 643 batches of 1,000 at a rate of 1/20 of 20 records, also with
# one worker. An epoch has as many steps as were not empty, and the accountant, which counts steps, says epsilon 2.28
# where it says 2.95 of the other.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 opacus==1.6.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore - <<'END'
import os
import tempfile
from importlib.metadata import version

import torch
from opacus.accountants import RDPAccountant
from opacus.utils.uniform_sampler import DistributedUniformWithReplacementSampler, UniformWithReplacementSampler

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
store = f"file://{tempfile.mkdtemp()}/store"
torch.distributed.init_process_group("gloo", init_method=store, world_size=1, rank=0)
RECORDS, RATE, STEPS = 20, 0.05, 1000


def drawn(kind, **records):
    sampler = kind(**records, sample_rate=RATE, steps=STEPS, generator=torch.Generator().manual_seed(1))
    batches = list(sampler)
    accountant = RDPAccountant()
    for _ in batches:
        accountant.step(noise_multiplier=2.0, sample_rate=RATE)
    empty = sum(len(batch) == 0 for batch in batches)
    epsilon = accountant.get_epsilon(1e-3)
    print(f"{kind.__name__}: len {len(sampler)}, batches {len(batches)}, {empty} of them empty; epsilon {epsilon:.2f}")
    return len(sampler), len(batches), empty, epsilon


print("opacus", version("opacus"))
length, made, empty, epsilon = drawn(UniformWithReplacementSampler, num_samples=RECORDS)
assert length == made == STEPS and 300 < empty < 420
length, made, empty, less = drawn(DistributedUniformWithReplacementSampler, total_size=RECORDS)
assert length == STEPS and 580 < made < 700 and empty == 0 and less < 0.9 * epsilon
torch.distributed.destroy_process_group()
END
