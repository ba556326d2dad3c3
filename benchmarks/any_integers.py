"""Graphs that nobody here wrote, by recipe: ResNet-20's top-1 on CIFAR-10, Silero's decisions on its recording.

python benchmarks/any_integers.py            # prints tables; EDGEPRESS_DATA names the folder with models/ and vision/
"""

import os
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import resnet
from common import ROOT, host

from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.sessions import open_on_cpu

DATA = Path(os.environ.get("EDGEPRESS_DATA", ROOT.parent / "shared" / "data"))
SILERO = DATA / "models" / "silero_vad"
BATCH = 100
PRESETS = ("fp32", "fp16", "int8", "int8-dynamic", "int4", "int4-128", "int8-static", "int8-static-a16")
BLOCKS_OF_16 = "[weights]\nbits = 8\nblock_size = 16\n"
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def data_bytes(bundle: Path) -> int:
    """Bytes of the weights as they are stored."""
    return (bundle / "model.onnx.data").stat().st_size


def measure_resnet(work: Path) -> None:
    """Top-1 over 2,000 test images; ranges from 1,000 training images."""
    resnet.build_resnet(DATA / "models" / "resnet_cifar10" / "resnet20.safetensors", work / "m.onnx", batch=BATCH)
    test, training = (np.load(DATA / "vision" / f"cifar10_{name}.npz") for name in ("test2000", "calibration1000"))
    images, labels = resnet.normalize(test["images"]), test["labels"]
    np.savez(work / "images.npz", images=resnet.normalize(training["images"]).reshape(-1, BATCH, 3, 32, 32))
    for preset in PRESETS:
        export(work / "m.onnx", out=work / preset, recipe=preset, calibration=[work / "images.npz"])
        model = load(work / preset)
        found = [model.run({"images": images[at : at + BATCH]})["logits"] for at in range(0, len(images), BATCH)]
        top1 = (np.concatenate(found).argmax(1) == labels).mean()
        print(f"ResNet-20  {preset:<16} {top1:7.2%} {data_bytes(work / preset):>10,} bytes", flush=True)


def chances(run: Run, sound: np.ndarray) -> np.ndarray:
    """The chance of speech in each 32 ms, (frames,); a frame comes with the 64 samples before it."""
    state, before, found = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for at in range(0, len(sound) - 511, 512):
        frame = np.concatenate([before, sound[at : at + 512]])[None]
        outputs = run({"input": frame, "state": state, "sr": np.array(16_000)})
        state, before = outputs["stateN"], sound[at + 448 : at + 512]
        found.append(outputs["output"][0, 0])
    return np.array(found)


def measure_silero(work: Path) -> None:
    """Decisions at 0.5 that are others than the float model's."""
    with wave.open(str(SILERO / "test.wav")) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    model = SILERO / "silero_vad_16k_op15.onnx"
    session = open_on_cpu(model)
    truth = chances(lambda feed: dict(zip(("output", "stateN"), session.run(None, dict(feed)), strict=True)), sound)
    (work / "int8-blocks-of-16.toml").write_text(BLOCKS_OF_16)
    for recipe in (*PRESETS[:6], str(work / "int8-blocks-of-16.toml")):
        out = work / f"silero-{Path(recipe).stem}"
        export(model, out=out, recipe=recipe)
        found = chances(load(out).run, sound)
        changed, largest = ((found > 0.5) != (truth > 0.5)).sum(), np.abs(found - truth).max()
        print(
            f"Silero     {Path(recipe).stem:<18} {changed:>3} of {len(truth):,} decisions changed, by {largest:.4f} at "
            f"most, {data_bytes(out):>9,} bytes",
            flush=True,
        )


if __name__ == "__main__":
    print(host())
    with TemporaryDirectory(prefix="any-integers-") as name:
        measure_resnet(Path(name))
        measure_silero(Path(name))
