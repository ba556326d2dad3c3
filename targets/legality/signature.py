"""What onnxruntime asks of a node before it looks for a provider: attributes, numbers and types as its schema has them.

A file with a node that its schema refuses is not opened at all, whichever provider would take the node.
"""

from edgepress.onnx_graph.view import Node, formal_types, schema_of
from edgepress.targets.legality.report import Cause, Placement

_ENDLESS = 2**31 - 1  # as many as one likes


def refused(node: Node) -> Placement | None:
    """Where onnxruntime refuses the node by its schema, a placement that says why; None where it does not."""
    problem = _problem(node)
    return None if problem is None else Placement(node.name, node.op, node.domain, "", *problem)


def _problem(node: Node) -> tuple[Cause, str, str] | None:
    """The cause, the reason and what to change."""
    schema = schema_of(node)
    if schema is None:
        return None
    called = f"onnxruntime's {node.key} of opset {schema.since_version}"
    for attribute in node.proto.attribute:
        if attribute.name not in schema.attributes:
            return "attribute", f"{called} has no attribute {attribute.name!r}", f"leave {attribute.name!r} out"
    if schema.deprecated:
        return "version", f"{called} is deprecated, and no longer opened", "write it with the operator that replaced it"
    for what, values, least, most in (
        ("input", node.proto.input, schema.min_input, schema.max_input),
        ("output", node.proto.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(values) <= most:
            count = f"{least}" if least == most else f"{least} to {most}" if most < _ENDLESS else f"{least} or more"
            wanted = f"{count} {what}" if count == "1" else f"{count} {what}s"
            return "op", f"{called} has {wanted}, not {len(values)}", f"give it {wanted}"
    types: dict[str, str] = {}
    for parameter, value in formal_types(schema.inputs, node.inputs):
        if value.type and types.setdefault(parameter, value.type) != value.type:
            reason = f"{called} takes inputs of one type as {parameter}, not {types[parameter]} and {value.type}"
            return "dtype", reason, "cast one of them to the type of the other"
    return None
