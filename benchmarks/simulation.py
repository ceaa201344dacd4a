"""The local engine side by side with Flower's Ray simulation and with bare PyTorch, in one call.

    python benchmarks/simulation.py [--repeat N] [W0 W1 W2]

W0  a client that returns the model unchanged, 1M parameters, 100 nodes, 10 a round, 30 rounds
W1  the CNN of the Keras tutorial on CIFAR-10: 100 clients of 100 images, 10 a round, batch 20, SGD 0.1, 10 rounds
W2  the same under Opacus: noise multiplier 1.0, clip norm 1.0, sampling rate 0.2

Every engine runs the same ServerApp and ClientApp in a process of its own, on two CPUs, one after the other. A round in
steady state is the median over the rounds after the second. Ratios compare medians over the repeats. CIFAR-10 is read
from FEDTRAIN_DATA or ../shared/data; without it, random images of the same shape are used, and the output says so.

An engine ends with an error where a client of a round has not answered, or has not trained; where the loss on the test
records has not fallen (W1 on CIFAR-10); and where the clients' ledgers lack a charge for a training (W2).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from proof import require_charges, require_results

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
ENGINES = {"W0": ("fedtrain", "ray"), "W1": ("fedtrain", "bare", "ray"), "W2": ("fedtrain", "ray")}
COMMANDS = {
    "fedtrain": "import local; local.main()",
    "ray": (
        "import workloads as w; from flwr.simulation import run_simulation; "
        "run_simulation(w.server, w.client, w.SPEC['nodes'], backend_config={'client_resources': {'num_cpus': 1}, "
        "'init_args': {'num_cpus': 2, 'include_dashboard': False}})"
    ),
    "bare": "import bare; bare.main()",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"of {', '.join(ENGINES)}; by default all")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each engine, taken in turn")
    arguments = parser.parse_args()
    if unknown := set(arguments.workloads) - set(ENGINES):
        parser.error(f"there is no workload {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        for workload in arguments.workloads or ENGINES:
            spec = make_spec(workload, Path(folder))
            engines = ENGINES[workload]
            samples: dict[str, list[tuple[float, float]]] = {engine: [] for engine in engines}
            for _ in range(arguments.repeat):
                for engine in engines:
                    samples[engine].append(measure(engine, spec, Path(folder)))
            show(workload, spec, samples)


def make_spec(workload: str, folder: Path) -> dict[str, object]:
    spec: dict[str, object] = {
        "nodes": 100,
        "cohort": 10,
        "rounds": 30,
        "config": None,
        "preload": ["numpy"],
        "private": False,
        "falls": False,
    }
    if workload == "W0":
        return spec
    data = Path(os.environ.get("FEDTRAIN_DATA", ROOT.parent / "shared" / "data")) / "cifar10"
    config: dict[str, object] = {
        "federation.clients": 100,
        "task.model": "cnn-cifar",
        "training.batch_size": 20,
        "training.learning_rate": 0.1,
        "data.max_records": 10_000,
    }
    if data.is_dir():
        config |= {
            "data.source": "parquet",
            "data.path": str(data / "train.parquet"),
            "data.test_path": str(data / "test.parquet"),
        }
    else:
        print("CIFAR-10 is not here: random images of the same shape instead")
        config |= {"data.source": "npz", "data.path": str(random_images(folder)), "data.test_fraction": 0.1}
    preload, private = ["torch"], workload == "W2"
    if private:
        config |= {
            "privacy.mode": "record",
            "privacy.sampling_rate": 0.2,
            "privacy.noise_multiplier": 1.0,
            "privacy.epsilon": 100.0,
            "privacy.delta": 1e-3,
            "federation.sites": str(folder / "sites"),
        }
        preload.append("opacus")
    # The loss of random images does not fall, and ten rounds under noise promise nothing.
    falls = data.is_dir() and not private
    return spec | {"rounds": 10, "config": config, "preload": preload, "private": private, "falls": falls}


def random_images(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    path = folder / "images.npz"
    images = generator.integers(0, 256, (11_200, 3, 32, 32), dtype=np.uint8)
    np.savez(path, x=images, y=generator.integers(0, 10, len(images)))
    return path


def measure(engine: str, spec: dict[str, object], folder: Path) -> tuple[float, float]:
    """Return the seconds of a round in steady state, and of the whole process."""
    times = folder / "times.json"
    times.unlink(missing_ok=True)
    shutil.rmtree(folder / "sites", ignore_errors=True)  # each run has a budget of its own
    environment = {
        **os.environ,
        "FEDTRAIN_BENCH": json.dumps({**spec, "times": str(times)}),
        "FEDTRAIN_CACHE": str(folder / "cache"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_DEDUP_LOGS": "0",
    }
    if spec["config"] is not None:
        # Data are decoded once and for all engines, before any of them is timed.
        prepare = "import workloads as w; w.initial_model()"
        subprocess.run([sys.executable, "-c", prepare], check=True, env=environment, capture_output=True)
    started = time.time()
    process = subprocess.run(
        [sys.executable, "-c", COMMANDS[engine]], env=environment, capture_output=True, text=True, check=False
    )
    whole = time.time() - started
    if process.returncode != 0 or not times.exists():
        sys.exit(f"{engine} failed:\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}")
    found = json.loads(times.read_text(encoding="utf-8"))
    count, cohort = int(str(spec["rounds"])), int(str(spec["cohort"]))
    require_results(found["results"], rounds=count, cohort=cohort)
    if spec["private"]:
        require_charges(folder / "sites", trainings=count * cohort)
    rounds = [after - before for before, after in pairwise(found["marks"])]
    return statistics.median(rounds[2:]), whole


def show(workload: str, spec: dict[str, object], samples: dict[str, list[tuple[float, float]]]) -> None:
    rounds = int(str(spec["rounds"]))
    print(f"\n{workload}: {spec['nodes']} nodes, {spec['cohort']} a round, {rounds} rounds")
    print(f"{'engine':10} {'round (ms)':>12} {'start-up (s)':>13} {'whole (s)':>10}   fedtrain is faster: round, whole")
    ours = [statistics.median(sample[index] for sample in samples["fedtrain"]) for index in (0, 1)]
    for engine, measured in samples.items():
        steady, whole = (statistics.median(sample[index] for sample in measured) for index in (0, 1))
        ratios = f"{steady / ours[0]:.2f}x, {whole / ours[1]:.2f}x"
        print(f"{engine:10} {steady * 1000:12.1f} {whole - rounds * steady:13.1f} {whole:10.1f}   {ratios}", flush=True)


if __name__ == "__main__":
    main()
