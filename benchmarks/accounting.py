"""The cost of accounting: many mechanisms by us and by dp-accounting, and each accountant beside the claim.

    python benchmarks/accounting.py [--repeat N] [different accountants]

different    200 rounds with 200 noise multipliers (rate 0.05, 20 steps each), epsilon after all of them
accountants  one composition (rate 0.01, noise 1.0, 10,000 steps) by each accountant

The epsilons of a case must agree: within 1 % with the first line, and RDP, a ceiling, not below it. Times are of the
CPU, each the median over the repeats, with nothing cached before. A ratio is to the first line.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.pld import PLDAccountant
from proof import require, require_epsilon, require_near

from fedtrain.privacy import COARSE, SampledGaussian
from fedtrain.privacy.accounting import pld
from fedtrain.privacy.accounting.pld import PldAccountant
from fedtrain.privacy.accounting.prv import PrvAccountant
from fedtrain.privacy.accounting.rdp import RdpAccountant

DELTA = 1e-5
ROUNDS = 200
DIFFERENT = [
    SampledGaussian(sampling_rate=0.05, noise_multiplier=1 + number / 100, steps=20) for number in range(ROUNDS)
]
LONG = [SampledGaussian(sampling_rate=0.01, noise_multiplier=1.0, steps=10_000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; by default all")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each, taken in turn")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    PldAccountant().epsilon(DIFFERENT[:1], DELTA)  # what libraries do once
    for case in arguments.cases or CASES:
        ways = CASES[case]
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(arguments.repeat):
            for name, way in ways.items():
                samples[name].append(measure(way))
        check(case, {name: [epsilon for _, epsilon in measured] for name, measured in samples.items()})
        show(case, samples)


def check(case: str, epsilons: Mapping[str, Sequence[float]]) -> None:
    """Require that all ways of a case have found the same epsilon, whichever run it was; RDP gives no less."""
    first = next(iter(epsilons.values()))[0]
    for name, found in epsilons.items():
        for epsilon in found:
            require_epsilon(epsilon, most=1e3)
            if name == "RDP":
                require(epsilon >= first, f"{case}: RDP gives {epsilon}, less than {first}")
            else:
                require_near(f"{case}: epsilon by {name}", epsilon, first, relative=0.01)


def measure(way: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds of CPU and the epsilon."""
    forget()
    started = time.process_time()
    epsilon = way()
    return time.process_time() - started, epsilon


def forget() -> None:
    """Drop the distributions that are kept of earlier compositions."""
    for kept in (pld._coarse, pld._fine):  # noqa: SLF001 - nobody but a measurement needs to
        kept.cache_clear()


def by_dp_accounting(rounds: list[SampledGaussian]) -> float:
    """Compose as anyone would with dp-accounting alone, on its own grid."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    for each in rounds:
        gaussian = dp_event.GaussianDpEvent(each.noise_multiplier)
        accountant.compose(dp_event.PoissonSampledDpEvent(each.sampling_rate, gaussian), each.steps)
    return float(accountant.get_epsilon(DELTA))


CASES: dict[str, dict[str, Callable[[], float]]] = {
    "different": {
        "all at once": lambda: PldAccountant().epsilon(DIFFERENT, DELTA),
        "dp-accounting": lambda: by_dp_accounting(DIFFERENT),
    },
    "accountants": {
        "PLD, fine": lambda: PldAccountant().epsilon(LONG, DELTA),
        "PLD, coarse": lambda: PldAccountant(discretization=COARSE).epsilon(LONG, DELTA),
        "PRV": lambda: PrvAccountant().epsilon(LONG, DELTA),
        "RDP": lambda: RdpAccountant().epsilon(LONG, DELTA),
    },
}


def show(case: str, samples: dict[str, list[tuple[float, float]]]) -> None:
    print(f"\n{case}")
    print(f"{'way':15} {'seconds':>9} {'epsilon':>12}   ratio of seconds")
    first = None
    for name, measured in samples.items():
        seconds = statistics.median(sample[0] for sample in measured)
        first = first or seconds
        print(f"{name:15} {seconds:9.3f} {measured[0][1]:12.6f}   {seconds / first:.2f}x", flush=True)


if __name__ == "__main__":
    main()
