"""What programs say of their privacy beside what is true, in situations in which epsilons are known to become false.

    python benchmarks/claims.py

Each situation is run with plain Opacus, with Opacus as Flower's example uses it, with Flower's wrappers and mods for
differential privacy, with NVFlare's filters, and with fedtrain. Nothing is sampled to find an epsilon: what one record
or one client moves is measured with the same noise in both worlds, and the bound is computed from it; see
claims_bounds.py. So a number in the column "true" is a lower bound, at the delta of the claim.

NVFlare is in an environment of its own, in build/claims, which the first call makes. The exit status is 1 if a number
is missing, or if a claim of fedtrain's is below the truth.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from math import exp, inf, isnan, log, log10
from pathlib import Path

import claims_fedtrain
import claims_fedtrain_clients
import claims_flower
import claims_opacus
from claims_bounds import DELTA, Row, laplace_scales

HERE = Path(__file__).resolve().parent
NVFLARE, NUMPY = "nvflare==2.9.0", "numpy==2.4.6"
SVT, PERCENTILE = "NVFlare, SVTPrivacy", "NVFlare, PercentilePrivacy"
# How far a claim may be below what was measured, which is rounded in single precision.
ROUNDING = 1e-3
# How far a measured scale may be from the one that the bound is computed for.
CLOSE = 0.1
DIGITS = 4


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    logging.disable(logging.INFO)
    started = time.perf_counter()
    rows = [*claims_opacus.rows(), *claims_flower.rows(), *nvflare()]
    rows += [*claims_fedtrain.rows(), *claims_fedtrain_clients.rows()]
    versions = [f"{name} {version(name)}" for name in ("fedtrain", "opacus", "flwr", "dp-accounting", "torch")]
    print(f"{', '.join(versions)}, {NVFLARE.replace('==', ' ')}; delta {DELTA:g}\n")
    print("| situation | program | it says | true at least | so it | measured |")
    print("| --- | --- | --- | --- | --- | --- |")
    order = list(dict.fromkeys(row.situation for row in rows))
    for row in sorted(rows, key=lambda row: order.index(row.situation)):
        cells = (row.situation, row.program, says(row), number(row.true), verdict(row), row.note)
        print(f"| {' | '.join(cells)} |")
    false = [row for row in rows if verdict(row).startswith("false")]
    print(f"\n{len(rows)} rows, {len(false)} false claims, {time.perf_counter() - started:.0f} s")
    if wrong := list(failures(rows)):
        sys.exit("\n".join(wrong))


def nvflare() -> Iterator[Row]:
    """Run NVFlare's filters in their environment, and turn what was measured into bounds."""
    python = HERE.parent / "build" / "claims" / NVFLARE / "bin" / "python"
    installed = python.parent.parent / ".installed"
    if not installed.exists():
        venv.create(python.parent.parent, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", NVFLARE, NUMPY]
        subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
        installed.touch()
    called = subprocess.run([str(python), str(HERE / "claims_nvflare.py")], check=True, capture_output=True, text=True)
    found = json.loads(called.stdout)
    assert f"nvflare=={found['version']}" == NVFLARE
    runs, scale = found["runs"], found["runs_scale"]
    assert abs(scale - 1) < CLOSE, scale
    # Two numbers that differ by twice gamma, in the event that all releases are beyond the larger one.
    beyond = 0.5**runs
    yield Row(
        situation="an accountant for each round or run",
        program=SVT,
        claimed=found["runs_claimed"],
        true=log((beyond - DELTA) / (beyond * exp(-runs))),
        note=f"{runs} runs on the same update; the accountant begins anew in each",
    )
    assert abs(found["steps_ratio"] / 1.1 - 1) < CLOSE, found["steps_ratio"]
    yield Row(
        situation="rate, steps, divisor of the private n",
        program=SVT,
        claimed=found["steps_claimed"],
        true=laplace_scales(1.1, found["steps_count"]),
        note=f"11 local steps for 10: {found['steps_count']} values have {found['steps_ratio']:.2f} times the noise",
    )
    assert found["seed_repeats"]
    yield Row(
        situation="the script sets the seed of the noise",
        program=SVT,
        claimed=found["seed_claimed"],
        true=inf,
        note="np.random.seed repeats all noise: it can be subtracted",
    )
    assert found["scalar_passes"]
    assert found["scalar_noted"]
    yield Row(
        situation="a number without dimensions",
        program=SVT,
        claimed=found["scalar_claimed"],
        true=inf,
        note="it is sent as it is",
        said=True,
    )
    assert found["percentile_repeats"]
    note = "nothing: the result is a function of the update"
    yield Row(situation="a filter without noise", program=PERCENTILE, claimed=None, true=inf, note=note)


def says(row: Row) -> str:
    return f"({number(row.claimed)})" if row.implied else number(row.claimed)


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return "infinite" if value == inf else f"{value:.3f}" if log10(value or 1) < DIGITS else f"{value:.1e}"


def verdict(row: Row) -> str:
    """Say whether the claim is below the truth."""
    if row.claimed is None or row.true is None:
        return ""
    if row.true <= row.claimed * (1 + ROUNDING):
        return "holds"
    return "false, and it says so" if row.said else "false"


def failures(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what is missing, and claims of fedtrain's that are below the truth."""
    for row in rows:
        if any(value is not None and isnan(value) for value in (row.claimed, row.true)) or not row.note:
            yield f"{row.situation}, {row.program}: a number is missing"
        if row.program == claims_fedtrain.FEDTRAIN and verdict(row).startswith("false"):
            yield f"{row.situation}: fedtrain says {row.claimed}, and {row.true} is true at least"
    situations = {row.situation for row in rows}
    ours = {row.situation for row in rows if row.program == claims_fedtrain.FEDTRAIN}
    others = {row.situation for row in rows if row.program != claims_fedtrain.FEDTRAIN}
    for situation in sorted(situations - (ours & others) - ONE_SIDED):
        yield f"{situation}: measured on one side alone"


# Opacus has two ways to clip, fedtrain one; and what is one situation there is two here.
ONE_SIDED = {"tied weights, ghost clipping"}

if __name__ == "__main__":
    main()
