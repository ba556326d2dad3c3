"""Does low rank beat fewer bits? MLP projections in two factors of 4 bits, beside whole ones of 4 and of 2 bits.

Each model is exported with its MLP projections stored in each way, all else alike, and scored as accuracy.py scores:
held-out text, bits per byte, KL against the checkpoint in float32. Everything is rounded by GPTQ. Then a budget chooses
bits for the whole projections of all layers, in no more bytes than the factors took.

    python benchmarks/low_rank.py [--data ../shared/data] [--models demo tiny1m] [--documents 20]
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accuracy import ours
from common import WORK, save, table
from spread import Sample
from subjects import STORIES, Subject, add_data, make_subject

from edgepress.exporter.bundle.files import DATA_FILE

DOCUMENTS = 20  # of 200
MLP = "layers.*.mlp.*"
RECIPE = """{head}[weights]
method = "gptq"
bits = 4
block_size = 32
[embedding]
method = "rtn"
bits = 8
[head]
method = "rtn"
bits = 8
{rest}"""
OVERRIDE = '[[override]]\nmatch = "{match}"\nbits = {bits}\nblock_size = {block}\n'
BUDGET = '[budget]\nsize_mb = {size:.6f}\ncandidates = ["2:32", "2:128", "4:32", "4:128"]\n'
OPTIONS = '[options.low_rank]\nmatch = "{match}"\nshare = {share}\nmultiple = 1\n'


@dataclass(frozen=True)
class Stored:
    """How the MLP projections are stored; ``share`` of their weights stays in two factors, 1 leaves them whole.

    ``budget`` is the most bytes of a bundle whose projections all have the bits that a budget chooses.
    """

    bits: int = 4
    block_size: int = 32
    share: float = 1.0
    budget: int = 0

    @property
    def name(self) -> str:
        """Such as ``low rank, share 0.5, 4 bits, block 32``."""
        if self.budget:
            return f"2 and 4 bits by a budget of {self.budget / 1e6:.3f} MB"
        whole = f"{self.bits} bits, block {self.block_size}"
        return whole if self.share == 1 else f"low rank, share {self.share}, {whole}"

    def write(self, folder: Path) -> Path:
        """Write the recipe as a TOML file."""
        head, rest = "", OVERRIDE.format(match=MLP, bits=self.bits, block=self.block_size)
        if self.budget:
            rest = BUDGET.format(size=self.budget / 1e6)
        if self.share < 1:
            head, rest = 'prune = ["low_rank"]\n', rest + OPTIONS.format(match=MLP, share=self.share)
        path = folder / "recipe.toml"
        path.write_text(RECIPE.format(head=head, rest=rest), encoding="utf-8")
        return path


def chosen() -> Iterator[Stored]:
    """Yield what is measured, but for the budgets."""
    for bits in (4, 2):
        for block in (32, 128):
            yield Stored(bits, block)
    for share in (0.75, 0.5):
        for block in (32, 128):
            yield Stored(4, block, share)


def measure(subject: Subject, folder: Path, how: Stored) -> Sample:
    """Export and score a model, and weigh its bundle."""
    found = ours(subject, folder, how.name, how.write(folder))
    return {**found, **asdict(how), "data_bytes": (folder / "bundle" / DATA_FILE).stat().st_size}


def best_whole(found: Sample, samples: Sequence[Sample]) -> Sample | None:
    """The sample of whole projections that takes no more bytes and has the least KL."""
    others = [s for s in samples if s["model"] == found["model"] and s["share"] == 1]
    fits = [other for other in others if other["data_bytes"] <= found["data_bytes"]]
    return min(fits, key=lambda other: float(other["kl"]), default=None)


HEADER = (
    "model",
    "MLP projections",
    "MB",
    "bits per byte",
    "KL",
    "best whole ones of no more bytes",
    "its MB",
    "its KL",
)


def rows(samples: Sequence[Sample]) -> Iterator[tuple[str, ...]]:
    """Yield the table's rows."""
    for found in samples:
        whole = None if found["share"] == 1 else best_whole(found, samples)
        other = (
            ("", "", "") if whole is None else (whole["name"], f"{whole['data_bytes'] / 1e6:.3f}", f"{whole['kl']:.4f}")
        )
        scores = (f"{found['data_bytes'] / 1e6:.3f}", f"{found['bits_per_byte']:.4f}", f"{found['kl']:.4f}")
        yield found["model"], found["name"], *scores, *other


def report(samples: Sequence[Sample]) -> str:
    """The table, from raw samples."""
    return table(HEADER, rows(samples))


def main() -> None:
    """Export, score and weigh; keep the samples, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--models", nargs="+", choices=("demo", "stories260k", "tiny1m"), default=("demo", "tiny1m"))
    parser.add_argument(
        "--documents", type=int, default=DOCUMENTS, help=f"of {STORIES} stories, and as much of the demo's"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    WORK.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    for model in arguments.models:
        subject = make_subject(model, arguments.data, min(1.0, arguments.documents / STORIES))
        todo = list(chosen())
        for how in todo:  # grows
            with TemporaryDirectory(dir=WORK, prefix="low-rank-") as name:
                samples.append(measure(subject, Path(name), how))
            print(model, how.name, f"{samples[-1]['bits_per_byte']:.4f}", flush=True)
            if how.share < 1:
                todo.append(Stored(budget=samples[-1]["data_bytes"]))
    print(f"raw samples: {save('low_rank', samples)}")
    print(report(samples))


if __name__ == "__main__":
    main()
