"""How well the bundle predicts text, and how far it is from the model that it was made from: the same on every try."""

from pathlib import Path

from edgepress.errors import InputError
from edgepress.runtime.gate.figures import Figure, Gauge, Option, Request
from edgepress.runtime.measures.evaluate import evaluate, read_documents

_FIGURES = {
    "bits_per_byte": "on the text",
    "kl_nats": "mean divergence from the reference's predictions, a token",
    "top1_agreement": "share of tokens for which both find the same one most likely",
}
_COMPARED = ("kl_nats", "top1_agreement")


def _take(requests: list[Request]) -> list[list[Figure]]:
    return [_figures(request) for request in requests]


def _figures(request: Request) -> list[Figure]:
    options, reference = request.options, None
    if any(name in request.names for name in _COMPARED):
        if options["reference"] is None:
            raise InputError(f"{' and '.join(_COMPARED)} need a model to compare with; give reference in [quality]")
        if request.reference_of is None:
            raise InputError("comparing with a model needs transformers; pip install 'edgepress[export]'")
        reference = request.reference_of(request.bundle, options["reference"])
    request.told(f"quality: {request.bundle} on {options['text']}")
    found = evaluate(
        request.bundle,
        read_documents(Path(options["text"])),
        context=options["context"],
        stride=options["context"] // 2,
        reference=reference,
    )
    # kernels differ in the last bits from one processor to the next; a share of a rule is for that, not an interval
    figures = [Figure("bits_per_byte", "bits", "less", (found.bits_per_byte,), exact=True)]
    if found.kl is not None and found.top1_agreement is not None:
        figures.append(Figure("kl_nats", "nats", "less", (found.kl,), exact=True))
        figures.append(Figure("top1_agreement", "", "more", (found.top1_agreement,), exact=True))
    return figures


GAUGE = Gauge(
    "quality",
    _FIGURES,
    {"text": Option(Path, required=True), "reference": Option(str), "context": Option(int, 256)},
    _take,
)
