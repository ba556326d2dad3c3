"""Are the bundles of this checkout the same bytes as those of another one?

Exports every preset of the demo model and of a tiny random checkpoint of every family (``tests/tiny_models.py``), and
every other tiny checkpoint with ``int4``, and notes the SHA-256 of each file; of a manifest, that of each entry.

    python benchmarks/same_bytes.py --out before.json            # in the one checkout
    python benchmarks/same_bytes.py --against before.json        # in the other; exit code 1 where a byte differs
    python benchmarks/same_bytes.py --quick …                    # without the recipes that train or measure: a minute

A run that is killed goes on where it stopped when it has ``--out``.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from edgepress.exporter import export

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

OLD = ROOT / "exporter" / "recipes"  # where the presets lay before exporter/ had floors
FOLDER = OLD if OLD.exists() else ROOT / "exporter" / "recipe" / "presets"
Digests = dict[str, str]
SLOW = {"int4-best", "int4-channel", "int4-fast", "int4-small"}  # a few steps here
FEW = "steps = 8"
QUICK = {"int4", "int8", "int8-dynamic", "fp16"}
TARGETS = {"int8-static-a16": "qnn-htp", "int8-static": "qnn-htp"}  # which have more files than the CPU's


def presets() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def preset_text(name: str) -> str:
    """The TOML text of a preset."""
    return (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def jobs(*, quick: bool) -> Iterator[tuple[str, str]]:
    """Model and preset of every bundle."""
    import tiny_models

    first = {kind: name for name, kind in reversed([(n, v.model_type) for n, v in tiny_models.VARIANTS.items()])}
    wanted = [name for name in presets() if name not in SLOW and (name in QUICK or not quick)]
    for preset in (*wanted, *(() if quick else sorted(SLOW))):
        yield "demo", preset
        if not quick or preset == "int8":
            yield from ((name, preset) for name in first.values() if preset != "int4")
    yield from ((name, "int4") for name in tiny_models.VARIANTS)


def digests(bundle: Path) -> Digests:
    """SHA-256 of each file of a bundle; the manifest's as those of its entries."""
    found = {}
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if name == "manifest.json":
            entries = json.loads(path.read_text(encoding="utf-8"))
            found |= {f"{name}: {key}": _digest(json.dumps(entries[key]).encode()) for key in entries}
        elif path.is_file():
            found[name] = _digest(path.read_bytes())
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make(model: str, preset: str) -> Digests:
    """Export one bundle and take its digests; a refusal is kept as its words."""
    import tiny_models

    from edgepress.errors import InputError

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = "demo" if model == "demo" else tiny_models.save(model, Path(folder) / "checkpoint")
        out = Path(folder) / "bundle"
        recipe: str | Path = preset
        if preset in SLOW:
            recipe = Path(folder) / f"{preset}.toml"
            text = preset_text(preset).replace("steps = 100", FEW)  # autoround's
            recipe.write_text(text.replace("[options.distill]", f"[options.distill]\n{FEW}"))
        try:
            export(checkpoint, out=out, recipe=recipe, target=TARGETS.get(preset, "arm64-cpu"), threads=1)
        except InputError as error:
            return {"refused": str(error).replace(folder, "")}
        return digests(out)


def differences(before: dict[str, Digests], now: dict[str, Digests]) -> list[str]:
    """What differs between two runs, a line each; bundles that only one of them has are left out."""
    lines = []
    for name in sorted(set(before) & set(now)):
        old, new = before[name], now[name]
        files = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        if files:
            lines.append(f"{name}: {', '.join(files)}")
    return lines


def main() -> int:
    """Export, compare, and say what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the digests here")
    parser.add_argument("--against", type=Path, help="digests of another checkout")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    now: dict[str, Digests] = {}
    if arguments.out and arguments.out.exists():
        now = json.loads(arguments.out.read_text(encoding="utf-8"))
    wanted = [job for job in jobs(quick=arguments.quick) if " ".join(job) not in now]
    with ProcessPoolExecutor(arguments.processes) as pool:
        futures = {pool.submit(make, *job): " ".join(job) for job in wanted}
        for future in as_completed(futures):
            now[futures[future]] = future.result()
            print(f"{futures[future]}: {len(now[futures[future]])} digests", file=sys.stderr, flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(now, indent=1, sort_keys=True), encoding="utf-8")
    if not arguments.against:
        return 0
    before = json.loads(arguments.against.read_text(encoding="utf-8"))
    found = differences(before, now)
    compared = len(set(before) & set(now))
    print("\n".join([*found, f"{compared - len(found)} of {compared} bundles are the same bytes"]))
    return 1 if found or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
