"""A keyword spotter, from sounds to bundles: ten words, other words and silence, trained here, exported as users do.

Log-mel spectrogram (recorded in the manifest) → convolution → depthwise-separable convolutions → GRU → 12 classes,
about 23,000 weights. Each recipe is exported, run and scored by the command line, beside the float module, on voices
that training has not heard. Instructions are those of one inference of the graph (a second of sound, its spectrogram
not counted) on an emulated processor.

    apt-get install espeak-ng && edgepress emulator setup --system
    python benchmarks/keyword_spotter.py [--each 200] [--epochs 12] [--cpu cortex-a76] [--no-emulator]

About 5 minutes of one quiet core, and 5 for the emulator. Sounds and weights that are there are not made again.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
import torch
from common import ROOT, WORK, save, table
from keyword_sounds import LABELS, RATE, VARIANTS, make_sounds, read_sounds
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from edgepress.processing.sound import sound_feed
from edgepress.processing.waves import read_wave
from edgepress.tasks.sound import Mel, Sound

MEL = {"n_fft": 512, "frame": 400, "hop": 160, "bins": 40, "low": 20.0, "high": 7600.0, "floor": 1e-6}
SOUND = {"input": "spectrogram", "rate": RATE, "length": RATE, "mel": MEL, "mean": -3.0, "std": 2.8}
FRAMES, STRIPE = 98, 4
RECIPES = ("fp32", "int8-static", "int8-dynamic", "int8", "int4")
PLACE = WORK / "keyword_spotter"
WEIGHTS = PLACE / "weights.safetensors"
SEED, RATE_OF_LEARNING, BATCH = 0, 5e-3, 32

Sample = dict[str, Any]


def separable(inputs: int, outputs: int, stride: tuple[int, int]) -> nn.Sequential:
    """A depthwise 3×3 and a pointwise convolution, each with its batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Spotter(nn.Module):
    """Spectrograms (batch, 40 bins, 98 frames) → logits (batch, 12)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        half = width // 2
        self.front = nn.Sequential(
            nn.Conv2d(1, half, 5, 2, 2, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            separable(half, width, (2, 1)),
            separable(width, width, (2, 1)),
            separable(width, width, (1, 1)),
        )
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, len(LABELS))

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Logits."""
        seen = self.front(spectrogram.unsqueeze(1)).mean(2)  # (batch, width, frames)
        states, _ = self.gru(seen.transpose(1, 2))
        logits: Tensor = self.head(states.mean(1))
        return logits


def spotter() -> dict[str, object]:
    """The trained module, as ``edgepress export keyword_spotter:spotter`` takes it."""
    module = Spotter()
    module.load_state_dict(load_file(WEIGHTS))
    return {
        "module": module.eval(),
        "inputs": {"spectrogram": torch.rand(1, MEL["bins"], FRAMES)},
        "axes": {"spectrogram": {0: "batch"}},
    }


def spectrograms(sounds: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the manifest's entry makes of sounds: (n, 40 bins, 98 frames)."""
    sound = Sound(**{**SOUND, "mel": Mel(**MEL)})
    made = [sound_feed([one], sound)["spectrogram"] for one in sounds]
    return np.concatenate(made).astype(np.float32)


def train(sounds: NDArray[np.float32], labels: NDArray[np.int64], epochs: int) -> Spotter:
    """AdamW with one cycle of its rate; spectrograms are shifted in time, and a stripe of their bins is hidden."""
    torch.manual_seed(SEED)
    random, x, y = np.random.default_rng(SEED), torch.from_numpy(spectrograms(sounds)), torch.from_numpy(labels)
    module, steps = Spotter().train(), epochs * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), RATE_OF_LEARNING, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE_OF_LEARNING, steps)
    for step in range(steps):
        rows = random.choice(len(x), BATCH, replace=False)
        shifted = torch.roll(x[rows], int(random.integers(-8, 9)), 2)
        stripe = int(random.integers(0, MEL["bins"] - STRIPE))
        shifted[:, stripe : stripe + STRIPE] = 0
        loss = functional.cross_entropy(module(shifted), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % (steps // 4) == 0:
            print(f"step {step + 1} of {steps}: loss {float(loss.detach()):.3f}", flush=True)
    return module.eval()


def write_task(place: Path) -> Path:
    """What stands before and after the graph, as ``--task`` takes it."""
    answers = {"classes": {"output": "output", "labels": list(LABELS)}}
    path = place / "spotter.json"
    path.write_text(json.dumps({"name": "audio-classification", "sound": SOUND, "answers": answers}), encoding="utf-8")
    return path


def command(*arguments: object) -> str:
    """Run ``edgepress …`` where this file is imported from; what it prints."""
    words = [sys.executable, "-m", "edgepress", *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stderr}")
    return done.stdout


def instructions(bundle: Path, wave: Path, cpu: str) -> Sample:
    """Instructions of one inference on an emulated processor, and whether it computes the same there."""
    inputs = PLACE / "one.npz"
    np.savez(inputs, spectrogram=spectrograms(read_wave(wave, RATE)[None]))
    model = bundle / "model.onnx"
    (found,) = json.loads(
        command("emulator", "run", model, "--inputs", inputs, "--cpu", cpu, "--count-instructions", "--json")
    )
    agreement = found["agreements"]["output"]
    return {
        "cpu": cpu,
        "instructions": found["instructions"]["instructions"],
        "apart": agreement["largest_difference"],
    }


def measure(folder: Path, recipe: str, sounds: Mapping[str, Path], cpu: str | None) -> Sample:
    """Export, run, score and count one recipe."""
    bundle, reference = folder / recipe, "keyword_spotter:spotter"
    export = ("--recipe", recipe, "--calibration", sounds["calibration"], "--out", bundle)
    command("export", reference, "--task", write_task(folder), *export, "--force")
    data = ("--data", sounds["test"], "--reference", reference, "--samples", 100_000)
    scores = {one["metric"]: one for one in json.loads(command("eval", bundle, *data, "--json"))}
    wave = sorted(sounds["test"].glob("yes/*.wav"))[0]
    best = json.loads(command("run", bundle, wave, "--json"))["answer"][0]
    return {
        "recipe": recipe,
        "bytes": sum(path.stat().st_size for path in bundle.glob("model.onnx*")),
        "top1": scores["top1"],
        "heard": {"said": "yes", "label": best["label"], "score": best["score"]},
        **({} if cpu is None else instructions(bundle, wave, cpu)),
    }


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each recipe."""
    header = ("recipe", "bytes", "top-1 (95 %)", "other answers than float's", "instructions an inference")
    rows = []
    for sample in samples:
        scores = sample["top1"]
        low, high = scores["interval"]
        rows.append(
            (
                sample["recipe"],
                f"{sample['bytes']:,}",
                f"{100 * scores['value']:.1f} % ({100 * low:.1f}–{100 * high:.1f})",
                f"{100 * scores['changed']:.1f} % of {scores['samples']:,}",
                f"{sample['instructions'] / 1e6:.2f} M ({sample['cpu']})" if "instructions" in sample else "",
            )
        )
    return table(header, rows)


def main() -> None:
    """Make sounds, train, and measure each recipe."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--each", type=int, default=200, help="sounds of a label that are trained on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--cpu", default="cortex-a76")
    parser.add_argument("--no-emulator", action="store_true")
    options = parser.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    each = {"train": options.each, "calibration": 8, "test": 50}
    sounds = {part: make_sounds(PLACE, part, each=each[part]) for part in VARIANTS}
    if not WEIGHTS.is_file():
        save_file(train(*read_sounds(sounds["train"]), options.epochs).state_dict(), WEIGHTS)
    samples = []
    for recipe in RECIPES:
        samples.append(measure(PLACE, recipe, sounds, None if options.no_emulator else options.cpu))
        print(json.dumps(samples[-1]), flush=True)
        save("keyword_spotter", samples)
    print(report(samples))


if __name__ == "__main__":
    main()
