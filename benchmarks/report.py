"""Print the tables of the README and of docs/ again, from the raw samples in results/: nothing is measured.

python benchmarks/report.py [vocabulary pruning]
"""

import argparse
import json
from importlib import import_module

from common import RESULTS

# Samples, and the script whose ``report`` makes tables of them. Those of cliffs.py and arm_cliffs.py are tables of
# the package: targets/legality/*.json.
REPORTS = {
    "accuracy": "accuracy_tables",
    "accuracy_grid": "accuracy_tables",
    "calibration_cost": "calibration_cost",
    "decode_speed": "decode_speed",
    "export_cost": "export_cost",
    "export_cost_large": "export_cost",
    "fusion": "fusion",
    "memory": "memory",
    "npu": "npu",
    "pruning": "pruning",
    "sparsity": "sparsity",
    "vocabulary": "vocabulary",
}


def report(name: str) -> str:
    """The tables of ``results/<name>.jsonl``."""
    lines = (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return str(import_module(REPORTS[name]).report([json.loads(line) for line in lines[1:]]))  # the first is the host


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(REPORTS)}; default: all")
    names = parser.parse_args().names
    if unknown := set(names) - set(REPORTS):
        parser.error(f"no tables of {', '.join(sorted(unknown))}; there are {', '.join(REPORTS)}")
    for name in names or REPORTS:
        print(f"{name}\n\n{report(name)}\n")


if __name__ == "__main__":
    main()
