"""The picture of accuracy.py: what each way to store a model costs, at how many bits a weight."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLOURS = {"edgepress": "#c2410c", "onnxruntime-genai": "#1d4ed8", "llama.cpp": "#15803d"}
_MARKERS = {"edgepress": "o", "onnxruntime-genai": "s", "llama.cpp": "^"}


def draw(samples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write bits a weight against KL, one panel a model; the same samples give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "edgepress"
    mpl.rcParams["svg.fonttype"] = "none"
    models = list(dict.fromkeys(sample["model"] for sample in samples))
    figure = Figure(figsize=(5 * len(models), 4.5), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        for tool, colour in _COLOURS.items():
            points = [s for s in samples if (s["model"], s["tool"]) == (model, tool) and s["kl"] > 1e-6]  # not float32
            bits, kl = [s["bits_per_weight"] for s in points], [s["kl"] for s in points]
            axes.plot(bits, kl, _MARKERS[tool], color=colour, label=tool)
            for point in points:
                at = (point["bits_per_weight"], point["kl"])
                offset = {"xytext": (4, 3), "textcoords": "offset points"}
                axes.annotate(point["name"], at, fontsize=6, color=colour, **offset)
        axes.set(title=model, xlabel="bits a weight, as stored", ylabel="KL from float32, nats a token", yscale="log")
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
