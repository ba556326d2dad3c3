"""How operators are computed: ``operators/<family>.py``, each with a table ``OPERATORS`` of functions by name.

ONNX's own operators stand there under their name, others under ``domain:name``. A function is given the
:class:`~edgepress.exporter.interpreter.call.Call` and the inputs; its docstring and the operator's definition in ONNX
(or in onnxruntime's ContribOperators.md) say the rest.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module

from edgepress.exporter.interpreter.call import Operator
from edgepress.modules import modules_in


@cache
def operators() -> Mapping[str, Operator]:
    """Every operator that there is a function for."""
    found: dict[str, Operator] = {}
    for module in modules_in(__path__):
        if not module.name.startswith("_"):
            table: Mapping[str, Operator] = import_module(f"{__name__}.{module.name}").OPERATORS
            if twice := found.keys() & table.keys():
                raise TypeError(f"{module.name}: {sorted(twice)[0]} is computed elsewhere too")
            found |= table
    return found
