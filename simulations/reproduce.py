"""Reproduce the published runs, and draw their curves.

    python simulations/reproduce.py cifar10 cifar10_dp --picture runs/cifar10.png

Each name is that of a configuration in this folder. Its run is left in runs/NAME; a run that was interrupted goes on.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from fedtrain.report import Report
from fedtrain.report.numbers import upper
from fedtrain.report.plots import curve_png

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=sorted(path.stem for path in Path(__file__).parent.glob("*.toml")))
    parser.add_argument("--picture", type=Path, help="PNG file for the accuracy over the rounds")
    arguments = parser.parse_args()
    curves = {}
    for name in arguments.names:
        report = run(name)
        final = report.evaluation.final
        epsilon = report.privacy.epsilon
        guarantee = "no privacy" if epsilon is None else f"epsilon {upper(epsilon)}, delta {report.privacy.delta:g}"
        curves[f"{name}: {guarantee}"] = report.evaluation.history
        print(f"{name}: accuracy {final.accuracy if final else None} after {report.rounds} rounds, {guarantee}")
    if arguments.picture is not None:
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        curve_png(arguments.picture, curves)


def run(name: str) -> Report:
    config, out = ROOT / "simulations" / f"{name}.toml", ROOT / "runs" / name
    command = [sys.executable, "-c", "from fedtrain.cli import main; main()", "simulate"]
    subprocess.run([*command, "--config", config, "--out", out, "--resume"], check=True, cwd=ROOT)
    return Report.model_validate_json((out / "report.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
