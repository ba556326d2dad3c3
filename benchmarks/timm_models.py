"""Does the door take real architectures of timm? One of each kind, with random weights.

Of each: how far the float graph is from the model (the largest difference of a logit, as a share of the largest), and
what an int8 bundle of it loses (SQNR of the logits in dB, by export's own check). timm needs torchvision of the same
build as torch, which torch for CPUs has not on PyPI: run it in an environment of its own.

    python benchmarks/timm_models.py [--models resnet18 …]

Samples are kept as they come.
"""

import argparse
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import torch
from common import save, table

from edgepress.errors import EdgepressError
from edgepress.exporter.doors.kinds import Options
from edgepress.exporter.doors.ways.timm_model import open_model
from edgepress.exporter.export import export_traced

MODELS = (
    *("resnet18", "mobilenetv3_small_100", "efficientnet_b0", "vit_tiny_patch16_224", "convnext_atto"),
    *("repvgg_a0", "mobilevit_xxs", "edgenext_xx_small", "fastvit_t8", "swin_tiny_patch4_window7_224"),
    *("mobileone_s0", "ghostnetv2_100", "mobilenetv4_conv_small", "tf_efficientnetv2_b0", "regnety_002"),
)


def measure(name: str) -> dict[str, Any]:
    """One sample."""
    told: dict[str, Any] = {"model": name, "timm": version("timm"), "torch": version("torch")}
    with TemporaryDirectory(prefix="timm-") as folder:
        try:
            traced = open_model(f"timm:{name}", Options(), Path(folder))
            out = Path(folder) / "bundle"
            manifest = export_traced(traced, out=out, recipe="int8", target="x86-cpu", check=True, threads=1)
        except EdgepressError as error:
            return told | {"refused": str(error)}
    parity: Mapping[str, Any] = manifest.parity or {}
    [outputs] = parity["outputs"].values()
    return told | {"weights": _weights(name), "difference": parity["float_difference"], "sqnr_db": outputs["sqnr_db"]}


def _weights(name: str) -> int:
    import timm

    return sum(weight.numel() for weight in timm.create_model(name, pretrained=False).parameters())


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each architecture."""
    rows = []
    for one in samples:
        if "refused" in one:
            rows.append([f"`{one['model']}`", "", "refused", one["refused"]])
            continue
        loss = f"int8 {one['sqnr_db']:.0f} dB"
        rows.append([f"`{one['model']}`", f"{one['weights'] / 1e6:.1f} M", f"{one['difference']:.1e}", loss])
    return table(["architecture", "weights", "difference", "bundle"], rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    samples: list[dict[str, Any]] = []
    for name in asked.models:
        samples.append(measure(name))
        save("timm_models", samples)
        print(samples[-1], flush=True)
    print(report(samples))


if __name__ == "__main__":
    main()
