"""What do zeros cost, and what do they save? Beside what the same bytes of a download buy without zeros.

Each model is exported with magnitude, Wanda and SparseGPT at several shares of zeros, and dense with fewer bits, and
scored as accuracy.py scores: held-out text, bits per byte, KL against the checkpoint in float32. Bytes are those of the
data file, as stored and after deflate, level 6, as stores and servers compress; ``codes`` says what a better layout
could gain: the codes of the projections packed as the kernels read them, deflated so, deflated as a mask and the codes
that are not 0, and the entropy of single codes, below which no coder of single codes comes.

    python benchmarks/sparsity.py [--data ../shared/data] [--models demo] [--documents 20] [--processes 1]

A run that is killed goes on where it stopped.
"""

import argparse
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accuracy import ours
from accuracy_recipes import BRIEF, Asked
from common import RESULTS, WORK, host, save, table
from numpy.typing import NDArray
from spread import Sample, run
from subjects import MODELS, STORIES, Measure, Subject, add_data, earlier, merge

from edgepress.bundle.manifest import read_manifest
from edgepress.cores import usable_cores
from edgepress.exporter import decide
from edgepress.exporter.arrays.packing import pack, unpack, unpack_zero_points
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.download import LEVEL, deflated_bytes

DOCUMENTS = 20  # of 200
MIXED = (
    0.75,
    0.87,
)  # of the bytes of 4 bits, block 128: as many as 3 bits take, and as half of the weights does deflated
DENSE = "gptq"


@dataclass(frozen=True)
class Stored:
    """One way to store the projections; ``zeros`` is a share in percent, such as "50%", a pattern, or nothing."""

    method: str = DENSE
    zeros: str = ""
    bits: int = 4
    block_size: int = 128
    then: str = ""
    symmetric: bool = True
    distilled: bool = False
    mixed: float = 0.0  # a budget of so many of the bytes of 4 bits, block 128

    @property
    def name(self) -> str:
        """Such as ``wanda 2:4 + rtn, 4 bits, block 128``."""
        steps = [f"{self.method} {self.zeros}".strip(), self.then, "distill" if self.distilled else ""]
        bits = (
            f"2 and 4 bits by a budget of {self.mixed:.0%}"
            if self.mixed
            else f"{self.bits} bits, block {self.block_size}"
        )
        bits += "" if self.symmetric else ", asymmetric"
        return f"{' + '.join(filter(None, steps))}, {bits}"

    def write(self, folder: Path, model: str) -> Path:
        """Write the recipe as a TOML file."""
        after, training = (("distill",), BRIEF) if self.distilled else ((), None)
        asked = Asked(self.method, self.bits, self.block_size, self.symmetric, after=after, training=training)
        path = asked.write(folder)
        lines = []
        if self.zeros:
            pattern = self.zeros if ":" in self.zeros else "unstructured"
            share = 0.5 if ":" in self.zeros else float(self.zeros.rstrip("%")) / 100
            lines = [f"[options.{self.method}]", f"sparsity = {share}", f'pattern = "{pattern}"']
            lines += [f'then = "{self.then}"'] if self.then else []
        if self.mixed:
            size = self.mixed * decide(model, target="arm64-cpu", recipe="int4-128").plan.data_bytes / 1e6
            candidates = '["2:32", "2:128", "4:128", "4:32"]'
            lines += ["[budget]", f"size_mb = {size:.6f}", f"candidates = {candidates}"]
        path.write_text(path.read_text(encoding="utf-8") + "\n".join([*lines, ""]), encoding="utf-8")
        return path


def chosen() -> Iterator[Stored]:
    """Yield what is measured: dense, each method at each share, and what learning gets back."""
    for block in (32, 128):
        for bits in (2, 4):
            yield Stored(bits=bits, block_size=block)
        for method in ("magnitude", "wanda", "sparsegpt"):
            for zeros in ("25%", "50%", "2:4"):
                yield Stored(method, zeros, block_size=block)
    for method in ("magnitude", "wanda"):
        for zeros in ("50%", "2:4"):
            yield Stored(method, zeros, then="rtn")
    yield Stored(symmetric=False)
    yield Stored("sparsegpt", "50%", symmetric=False)
    yield from (Stored(mixed=share) for share in MIXED)
    yield Stored(distilled=True)
    yield Stored(bits=2, block_size=32, distilled=True)
    for zeros in ("50%", "2:4"):
        yield Stored("sparsegpt", zeros, distilled=True)
    yield from (Stored(mixed=share, distilled=True) for share in MIXED)


def take(subject: Subject, folder: Path, how: Stored) -> list[Sample]:
    """Export and score a model, and weigh its bundle."""
    found = ours(subject, folder, how.name, how.write(folder, subject.model))
    return [{**found, "zeros_asked": how.zeros, **weigh(folder / "bundle")}]


def weigh(bundle: Path) -> Sample:
    """Bytes of a bundle's data file, as stored and deflated; those of the projections' codes in other layouts too."""
    data = np.fromfile(bundle / DATA_FILE, np.uint8)
    packed, masks, others, scales = (Deflate() for _ in range(4))
    zeros = count = 0
    entropy = 0.0
    for tensor in read_manifest(bundle).tensors:
        scheme, regions = tensor["scheme"], tensor["regions"]
        if tensor["kind"] != "linear" or not isinstance(scheme, dict) or not isinstance(regions, dict):
            continue
        (rows, columns), scheme = tensor["shape"], Scheme(**scheme)  # type: ignore[misc] - as the manifest has it
        region = {part: data[start : start + size] for part, (start, size) in regions.items()}
        codes = unpack(region["values"], scheme.bits).reshape(rows, -1)  # (rows, blocks · block size)
        is_zero = codes == zero_codes(region, scheme, rows, columns)
        rest = codes[~is_zero]
        packed.add(region["values"])
        scales.add(region["scales"])
        masks.add(np.packbits(is_zero))
        others.add(pack(np.pad(rest, (0, -len(rest) % (8 // scheme.bits))), scheme.bits))
        zeros, count = zeros + int(is_zero[:, :columns].sum()), count + rows * columns
        entropy += entropy_bytes(codes)
    return {
        "data_bytes": len(data),
        "deflated_bytes": deflated_bytes(bundle / DATA_FILE),
        "zeros": zeros / count,
        "codes": {
            "bytes": packed.bytes,
            "deflated": packed.end(),
            "mask_and_rest_deflated": masks.end() + others.end(),
            "entropy": entropy,
        },
        "scales": {"bytes": scales.bytes, "deflated": scales.end()},
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }


def zero_codes(region: dict[str, NDArray[np.uint8]], scheme: Scheme, rows: int, columns: int) -> NDArray[np.uint8]:
    """The code that means 0 at each place, (rows, blocks · block size)."""
    if "zero_points" not in region:
        return np.full((rows, 1), scheme.zero_point, np.uint8)
    zero_points = unpack_zero_points(region["zero_points"].reshape(rows, -1), scheme.bits, scheme.blocks(columns))
    return np.repeat(zero_points, scheme.block_size, axis=1)


class Deflate:
    """Counts the bytes that go into a deflate stream, and those that come out."""

    def __init__(self) -> None:
        self.bytes, self._out, self._compressor = 0, 0, zlib.compressobj(LEVEL)

    def add(self, piece: NDArray[np.uint8]) -> None:
        """Put bytes in."""
        self.bytes += piece.nbytes
        self._out += len(self._compressor.compress(piece.tobytes()))

    def end(self) -> int:
        """Return the bytes that came out, all told."""
        return self._out + len(self._compressor.flush())


def entropy_bytes(codes: NDArray[np.uint8]) -> float:
    """Bytes that a perfect coder of single codes needs, told their frequencies."""
    counts = np.bincount(codes.ravel()).astype(float)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


HEADER = ("model", "projections", "zeros", "data file MB", "deflated MB", "bits per byte", "KL (nats)")
HEADER += ("dense, no larger deflated", "its KL")


def rows(samples: Sequence[Sample]) -> Iterator[tuple[str, ...]]:
    """Yield table rows: each sample, and for one with zeros the best dense one whose download is no larger."""
    for found in samples:
        dense = best_dense(found, samples) if found["zeros_asked"] else None
        yield (
            found["model"],
            found["name"],
            f"{found['zeros']:.1%}",
            f"{found['data_bytes'] / 1e6:.3f}",
            f"{found['deflated_bytes'] / 1e6:.3f}",
            f"{found['bits_per_byte']:.4f}",
            f"{found['kl']:.4f}",
            *(
                ("", "")
                if dense is None
                else (f"{dense['name']} ({dense['deflated_bytes'] / 1e6:.3f})", f"{dense['kl']:.4f}")
            ),
        )


def best_dense(found: Sample, samples: Sequence[Sample]) -> Sample | None:
    """The dense sample of the model that takes no more bytes deflated and has the least KL; learned ones by learned."""
    learned = "distill" in found["name"]
    others = [
        other
        for other in samples
        if other["model"] == found["model"]
        and not other["zeros_asked"]
        and (learned or "distill" not in other["name"])
        and other["deflated_bytes"] <= found["deflated_bytes"]
    ]
    return min(others, key=lambda other: float(other["kl"]), default=None)


def layouts(samples: Sequence[Sample]) -> Iterator[tuple[str, ...]]:
    """Yield bits a weight of the codes in each layout, of what has no learning in it, at block 128."""
    for found in samples:
        if "block 128" not in found["name"] or "+" in found["name"]:
            continue
        codes, per_byte = found["codes"], 0.125 * found["codes"]["bytes"]
        bits = 2 if ", 2 bits" in found["name"] else 4
        per_weight = [bits * codes[key] / 8 / per_byte for key in ("deflated", "mask_and_rest_deflated", "entropy")]
        yield found["model"], found["name"], str(bits), *(f"{value:.2f}" for value in per_weight)


LAYOUTS = ("model", "projections", "bits a code, packed", "deflated", "mask and rest, deflated", "entropy")


def report(samples: Sequence[Sample]) -> str:
    """The tables, from raw samples."""
    return f"{table(HEADER, rows(samples))}\n\n{table(LAYOUTS, layouts(samples))}"


def main() -> None:
    """Export, score and weigh; keep the samples, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument(
        "--documents", type=int, default=DOCUMENTS, help=f"of {STORIES} stories, and as much of the demo's"
    )
    parser.add_argument("--processes", type=int, default=usable_cores())
    arguments = parser.parse_args()
    share = min(1.0, arguments.documents / STORIES)
    kept = earlier(RESULTS / "sparsity.jsonl", arguments.models, whole=True)
    jobs = [Measure(model, arguments.data, share, how, take) for model in arguments.models for how in chosen()]
    partial = WORK / "sparsity.partial.jsonl"
    found = run(
        jobs, partial, processes=arguments.processes, show=lambda one: print(one["model"], one["name"], flush=True)
    )
    samples = merge(kept, [{**one, "cpu": host()["cpu"]} for one in found])
    print(f"raw samples: {save('sparsity', samples)}")
    partial.unlink()
    print(report(samples))


if __name__ == "__main__":
    main()
