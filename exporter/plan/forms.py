"""How the graph computes with each tensor: in floats, in blocks, in integers."""

from edgepress.errors import InputError
from edgepress.exporter.arrays.scheme import FEWEST_TOKENS, Scheme
from edgepress.exporter.methods.kinds import Method, load_method
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.plan.plan import Form
from edgepress.exporter.plan.schemes import is_kept
from edgepress.exporter.recipe.recipe import HALF_BITS, KEPT_BITS, Recipe

INT8_LEVEL = 4  # the accuracy_level at which products round activations to 8 bits
_FEW = f"; rtn for an expert to which fewer than {FEWEST_TOKENS} tokens of the text come"
_NO_RANGE = "; MatMulNBits, as an expert to which no token comes has no range of activations"
_FEW_ZEROS = f"; by the weights alone for an expert to which fewer than {FEWEST_TOKENS} tokens of the text come"


def product_form(weight: Weight, scheme: Scheme | None, asked: str, recipe: Recipe) -> tuple[Form, str]:
    """How the graph computes with a weight, and what the plan adds to its reason for that.

    Integer products need 8-bit weights with one scale a row; a head that is stored otherwise stays MatMulNBits.
    """
    activations = recipe.activations
    if scheme is None:
        half = not is_kept(weight) and recipe.storage(weight.name, weight.kind)[0].bits == HALF_BITS
        return ("half", "; computed in float32") if half else ("float", "")
    if weight.expert or weight.stack is not None:
        few = "" if isinstance(load_method(scheme.method), Method) else _FEW_ZEROS if scheme.zeros else _FEW
        return "blocks", few + _why_not_float(weight, scheme, recipe)
    if weight.in_float or not activations.is_integer or weight.kind == "embedding":
        return _made_floats(weight, scheme, recipe) if weight.in_float else ("blocks", "")
    if weight.kind == "head" and activations.is_calibrated:
        return "blocks", "; float32 activations, as logits are"
    if _by_row(scheme):
        form: Form = (
            "dynamic" if not activations.is_calibrated else "uint8" if activations.type == "uint8" else "uint16"
        )
        return form, f"; {activations.type} activations, {activations.ranges} ranges by [activations]"
    if weight.kind == "head":
        return "blocks", "; float32 activations, as its weights have scales in blocks"
    raise InputError(
        f'[activations] type = "{activations.type}" needs bits = 8, block_size = "channel" and symmetric = true, or '
        f"bits = 16 or 32; {weight.name} has {scheme.bits} bits, "
        f"{'one scale a row' if scheme.per_channel else f'block {scheme.block_size}'}"
        f"{'' if scheme.symmetric else ' and zero points'} by {asked}"
    )


def _made_floats(weight: Weight, scheme: Scheme, recipe: Recipe) -> tuple[Form, str]:
    """Codes that are floats when a graph is opened, but for an LSTM's where integers are ranged at each call."""
    activations = recipe.activations
    if weight.stepped and activations.is_integer and not activations.is_calibrated and _by_row(scheme):
        return "dynamic", f"; {activations.type} activations, ranged over a call and at each step"
    return "folded", "; computed in float32"


def _by_row(scheme: Scheme) -> bool:
    """Whether a weight has codes that kernels multiply in integers: 8 bits, one scale a row."""
    return scheme.bits == 8 and scheme.per_channel and scheme.symmetric


def static_form(weight: Weight, scheme: Scheme | None, asked: str, recipe: Recipe) -> tuple[Form, str]:
    """As :func:`product_form`, in a graph of which every value is an integer."""
    why = f"; {recipe.activations.type} activations, {recipe.activations.ranges} ranges by [activations]"
    if weight.static == "value":
        return ("uint8 value" if recipe.activations.type == "uint8" else "uint16 value"), why
    if scheme is None:
        if recipe.storage(weight.name, weight.kind)[0].bits == KEPT_BITS:
            return "float", "; its node computes in float32"
    elif scheme.bits in {4, 8} and scheme.per_channel and scheme.symmetric:
        return "signed", why
    raise InputError(
        f'[activations] type = "{recipe.activations.type}" with ranges = "{recipe.activations.ranges}" needs bits = 8 '
        f'or 4, block_size = "channel" and symmetric = true, or bits = 32; {weight.name} has another storage by {asked}'
    )


def _why_not_float(weight: Weight, scheme: Scheme, recipe: Recipe) -> str:
    """What the plan adds to the reason of an expert's weights: what their product makes of the activations."""
    if weight.stack is None:
        return _NO_RANGE if recipe.activations.is_integer else ""
    if recipe.activations.is_integer:
        return "; QMoE, which rounds activations to 8 bits by blocks"
    if scheme.bits == 8 and recipe.accuracy_level != INT8_LEVEL:
        return f"; slow: accuracy_level {recipe.accuracy_level} dequantizes 8 bits of experts at each call"
    return ""


def block_form(recipe: Recipe) -> Form:
    """How blocks are stored: with scales in float16 where a graph of the bundle computes in it."""
    return "half blocks" if recipe.activations.in_float16 else "blocks"


def with_scales(weight: Weight, form: Form, recipe: Recipe) -> tuple[Form, str]:
    """The form of a weight by :func:`block_form`, unless float16 cannot hold its scales; and what the plan adds."""
    if form != "blocks" or block_form(recipe) == form:
        return form, ""
    lost = recipe.activations.float32_scales.get(weight.name)
    if weight.kind == "embedding" and weight.name != "embedding":  # a table of inputs by layer
        lost = "others are cast when a session is opened, and would be held in memory for all rows"
    return (block_form(recipe), "") if lost is None else (form, f"; float32 scales: {lost}")
