"""Show that secure aggregation changes no accuracy by more than another seed does.

    python simulations/parity.py cifar10 cifar10_secagg --seeds 1 2 3 --rounds 20

Runs each configuration with each seed, leaves the runs in runs/parity/, and prints the accuracy of each, the means, and
the spread over the seeds. A run that is there already is not repeated.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

from fedtrain.report import Report

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plain", help="name of a configuration in this folder")
    parser.add_argument("other", help="name of the one that is compared with it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, help="rounds of each run; the configuration's if it is not given")
    arguments = parser.parse_args()
    accuracies: dict[str, list[float]] = {arguments.plain: [], arguments.other: []}
    for seed in arguments.seeds:
        for name, found in accuracies.items():
            found.append(accuracy(name, seed, arguments.rounds))
            print(f"{name}, seed {seed}: accuracy {found[-1]:.4f}", flush=True)
    plain, other = accuracies.values()
    differences = [after - before for before, after in zip(plain, other, strict=True)]
    for name, found in accuracies.items():
        print(f"{name}: mean {mean(found):.4f}, standard deviation over the seeds {stdev(found):.4f}")
    print(f"difference of the means {mean(differences):+.4f}, largest for one seed {max(differences, key=abs):+.4f}")


def accuracy(name: str, seed: int, rounds: int | None) -> float:
    out = ROOT / "runs" / "parity" / f"{name}-{seed}-{rounds or 'all'}"
    command = [sys.executable, "-c", "from fedtrain.cli import main; main()", "simulate"]
    command += ["--config", str(ROOT / "simulations" / f"{name}.toml"), "--out", str(out), "--resume"]
    settings = {"seed": seed, "output.screen": "none"} | ({} if rounds is None else {"federation.rounds": rounds})
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    subprocess.run(command, check=True, cwd=ROOT)
    evaluation = Report.model_validate_json((out / "report.json").read_text(encoding="utf-8")).evaluation.final
    if evaluation is None or evaluation.accuracy is None:
        sys.exit(f"{out} has no accuracy")
    return evaluation.accuracy


if __name__ == "__main__":
    main()
