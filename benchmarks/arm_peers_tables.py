"""Two more tables of arm_instructions.py's samples: peers beside us, and all tools by what their operators are for."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from arm_scaling import SPLIT, Samples, named, scaled
from common import group, table

OURS = "edgepress"
PRODUCTS, ATTENTION, NORMS, ACTIVATION, REST = (
    "products with weights",
    "attention, rotation, cache",
    "norms and sums",
    "activation",
    "everything else",
)
CLASSES = {
    **dict.fromkeys(("MatMulNBits", "MatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MUL_MAT"), PRODUCTS),
    **dict.fromkeys(("GroupQueryAttention", "RotaryEmbedding"), ATTENTION),
    **dict.fromkeys(("FLASH_ATTN_EXT", "ROPE", "SET_ROWS", "SOFT_MAX"), ATTENTION),
    **dict.fromkeys(("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "Add"), NORMS),
    **dict.fromkeys(("RMS_NORM", "MUL", "ADD"), NORMS),
    **dict.fromkeys(("QuickGelu", "Sigmoid", "Mul", "SWIGLU"), ACTIVATION),
}
"""What an operator is for: those of onnxruntime in its spelling, those of llama.cpp in capitals."""


def beside(samples: Samples) -> str:
    """How many times our instructions and bytes a token of a peer takes, where ours was counted too.

    Ours is the graph in float16, which these processors run, where it was counted, else the one in float32.
    """
    counted = group(samples, "model", "cpu", "tool", "form")
    contexts = sorted({sample["context"] for sample in samples})
    header = ["model", "processor", "tool", "form", "our graph"]
    header += [f"{kind} after {context:,}" for kind in ("decode", "prefill") for context in contexts]
    header += [f"bytes of a decoded token after {context:,}" for context in contexts]
    rows = []
    for (model, cpu, tool, form), theirs in counted.items():
        mine = [counted.get((model, cpu, OURS, form_of), []) for form_of in (f"{SPLIT[1]} float16", SPLIT[1])]
        ours = mine[0] or mine[1]
        if tool == OURS or not ours:
            continue
        cells = [
            _times(_call(theirs, is_decode, at), _call(ours, is_decode, at), bytes_of=False)
            for is_decode in (True, False)
            for at in contexts
        ]
        cells += [_times(_call(theirs, True, at), _call(ours, True, at), bytes_of=True) for at in contexts]
        rows.append([named(model), cpu, tool, form, "float16" if mine[0] else "float32", *cells])
    return table(header, rows)


def _call(samples: Samples, is_decode: bool, context: int) -> Samples:
    return [one for one in samples if (one["tokens"] == 1) is is_decode and one["context"] == context]


def _times(theirs: Samples, ours: Samples, *, bytes_of: bool) -> str:
    if not theirs or not ours:
        return "–"

    def value(one: Mapping[str, Any]) -> float:
        loaded = one["weight_bytes_loaded"] + one["state_bytes_loaded"]
        return float(loaded if bytes_of else one["instructions"])

    return f"{scaled(theirs, value) / scaled(ours, value):.2f} ×"


def by_class(samples: Samples) -> str:
    """Millions of instructions a token by what they are for, after the longest context of a model.

    Of the models and processors that a peer was counted with; ours of one recipe.
    """
    classes = (PRODUCTS, ATTENTION, NORMS, ACTIVATION, REST)
    header = ["model", "call", "processor", "tool", "form", *(f"{name}: M a token" for name in classes)]
    rows = []
    shown = [one for one in samples if one["tool"] != OURS or one["form"].split()[0] == SPLIT[1]]
    for (model, cpu), of_cpu in group(shown, "model", "cpu").items():
        if all(one["tool"] == OURS for one in of_cpu):
            continue
        context = max(one["context"] for one in of_cpu)
        for is_decode in (True, False):
            of_call = _call(of_cpu, is_decode, context)
            for (tool, form), of_case in group(of_call, "tool", "form").items():
                cells = [f"{scaled(of_case, partial(_of_class, name)) / 1e6:.2f}" for name in classes]
                call = f"{'decode' if is_decode else 'prefill'} after {context:,}"
                rows.append([named(model), call, cpu, tool, form, *cells])
    return table(header, rows)


def _of_class(name: str, sample: Mapping[str, Any]) -> float:
    """Instructions a token of one class; an operator's name is the first word."""
    found = sum(count for key, count in sample["operators"].items() if CLASSES.get(key.split()[0], REST) == name)
    return float(found / sample["tokens"])
