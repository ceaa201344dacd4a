"""Integer noise beside the secure Gaussian, and beside other ways to draw it, interleaved, as ratios.

    python benchmarks/integer_noise.py [--repeat N] [--values N]

Gaussian    fedtrain's secure Gaussian, floats: what the ratios are to
Skellam, discrete Gaussian
            fedtrain's integer noise of a deviation of 5, 50, 5,000 and 60,000 grid steps, secure and seeded
search      the same thresholds, each found by binary search, secure
Poisson     the difference of two Poisson values of NumPy's generator: neither secure nor exact

Times are of the processor, on one thread, each the median over the repeats. Tables are made before, and their time is
shown apart. The mean, the variance and the fourth moment of all values that were timed must be those of the
distribution, by eight of their own deviations; otherwise the program ends with status 1.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from proof import require

from fedtrain.privacy.integer_noise import IntegerNoise, draw
from fedtrain.privacy.integer_tables import thresholds
from fedtrain.privacy.noise import RandomSource, open_source

VALUES, REPEAT = 1 << 20, 5
DEVIATIONS = (5, 50, 5_000, 60_000)
KINDS = {"Skellam": "skellam", "discrete Gaussian": "discrete-gaussian"}
ALLOWED = 8.0

Way = Callable[[int], NDArray[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=REPEAT, help="runs of each, taken in turn")
    parser.add_argument("--values", type=int, default=VALUES, help="values of a run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    secure, seeded = open_source("secure", 0), open_source("seeded", 0)
    for deviation in DEVIATIONS:
        ways = {"Gaussian": gaussian(secure, deviation)}
        tables = {}
        for name, kind in KINDS.items():
            noise = IntegerNoise(kind=kind, variance=float(deviation**2))
            tables[name] = seconds(lambda noise=noise: draw(noise, 1, secure))
            ways[name] = integers(noise, secure)
            ways[f"{name}, seeded"] = integers(noise, seeded)
        ways["search"] = search(IntegerNoise(kind="skellam", variance=float(deviation**2)), secure)
        ways["Poisson"] = poisson(deviation)
        samples: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.repeat):
            for name, way in ways.items():
                samples[name].append(measure(name, way, arguments.values, deviation))
        show(deviation, samples, tables)


def gaussian(source: RandomSource, deviation: int) -> Way:
    cpu = torch.device("cpu")
    return lambda count: source.gaussian((count,), std=float(deviation), device=cpu).numpy()


def integers(noise: IntegerNoise, source: RandomSource) -> Way:
    return lambda count: draw(noise, count, source)


def search(noise: IntegerNoise, source: RandomSource) -> Way:
    """Find the thresholds by binary search, without a second word for ties."""
    upper, _ = thresholds(noise.kind, noise.variance)

    def values(count: int) -> NDArray[np.int64]:
        found = []
        for start in range(0, count, 1 << 14):
            words = source.streams(1)[0].words(min(1 << 14, count - start))
            magnitudes = np.searchsorted(upper, (words >> np.uint64(1)).view(np.int64), side="right")
            found.append(np.where(words & np.uint64(1), -magnitudes, magnitudes))
        return np.concatenate(found)

    return values


def poisson(deviation: int) -> Way:
    generator = np.random.default_rng(0)
    mean = deviation**2 / 2
    return lambda count: generator.poisson(mean, count) - generator.poisson(mean, count)


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(name: str, way: Way, count: int, deviation: int) -> float:
    """Return the nanoseconds of a value, after its moments were checked."""
    started = time.process_time()
    values = way(count)
    taken = time.process_time() - started
    require(values.shape == (count,), f"{name} has drawn {values.shape} of {count} values")
    scaled = values / deviation
    excess = 0.0 if "aussian" in name else deviation**-2.0
    # The variances of x, x^2 and x^4 are those of the normal distribution, or a little more.
    for power, expected, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0 + excess), (4, 3.0 + excess, 96 + 210 * excess)):
        found = float((scaled**power).mean())
        allowed = ALLOWED * math.sqrt(spread / count)
        require(
            abs(found - expected) < allowed,
            f"moment {power} of {name} with deviation {deviation} is {found}, and {expected} was expected",
        )
    return taken / count * 1e9


def show(deviation: int, samples: dict[str, list[float]], tables: dict[str, float]) -> None:
    print(f"\ndeviation {deviation:,}")
    print(f"{'way':28} {'ns a value':>10} {'ratio':>7}   {'seconds for the table':>21}")
    first = statistics.median(samples["Gaussian"])
    for name, measured in samples.items():
        taken = statistics.median(measured)
        table = f"{tables[name]:.3f}" if name in tables else ""
        print(f"{name:28} {taken:10.1f} {taken / first:6.2f}x   {table:>21}", flush=True)


if __name__ == "__main__":
    main()
