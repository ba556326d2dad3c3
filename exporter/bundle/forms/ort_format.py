"""ORT format: the graph optimized ahead of time, and the list of kernels that a reduced onnxruntime build must have.

onnxruntime's own converter writes both (``onnxruntime.tools.convert_onnx_models_to_ort``): ``model.ort`` for apps that
ship onnxruntime's minimal build, which reads no ONNX, and ``required_operators_and_types.config`` for
``build.sh --minimal_build --include_ops_by_config``.
"""

import contextlib
import io
import logging
from collections.abc import Iterator

from edgepress.errors import InputError
from edgepress.exporter.bundle.files import MODEL_FILE
from edgepress.exporter.bundle.forms import Form, FormTask
from edgepress.exporter.bundle.ort_flatbuffer import sort_kernel_types
from edgepress.exporter.plan.planned import Planned
from edgepress.targets import Soc, Target

ORT_FILE = "model.ort"
CONFIG_FILE = "required_operators_and_types.config"
_LARGEST = 2**31 - 1  # bytes: a FlatBuffer is addressed by signed 32-bit offsets


def refuse(planned: Planned, target: Target, _socs: tuple[Soc, ...]) -> None:
    """Raise InputError when the weights do not fit in one file in ORT format."""
    size = planned.plan.data_bytes
    if size > _LARGEST:
        raise InputError(
            f"{target.name}: the weights take {size / 1e9:.2f} GB and ORT format holds {_LARGEST / 1e9:.2f} GB; "
            "choose a smaller recipe, or --target arm64-cpu, whose bundle is in ONNX format"
        )


def write(task: FormTask) -> dict[str, object]:
    """Convert the bundle's graph; weights are inside the file, since a minimal build reads no external data."""
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    with contextlib.redirect_stdout(io.StringIO()), _quiet():
        convert_onnx_models_to_ort(
            task.bundle / MODEL_FILE,
            task.folder,
            [OptimizationStyle.Fixed],
            target_platform="arm",
            enable_type_reduction=True,
        )
    sort_kernel_types(task.folder / ORT_FILE)
    made = task.folder / "model.required_operators_and_types.config"
    # Its head names the file by where it was converted: the bundle's bytes must not depend on that.
    lines = [line for line in made.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    text = "\n".join([f"# operators and types of {ORT_FILE}, for onnxruntime's --include_ops_by_config", *lines]) + "\n"
    (task.folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    made.unlink()
    return {"model": ORT_FILE, "operators": CONFIG_FILE, "bytes": (task.folder / ORT_FILE).stat().st_size}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter logs every step at level INFO through a logger of its own."""
    logger = logging.getLogger("ort_format_model.utils")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


FORM = Form(
    name="ort-format",
    description="model.ort for onnxruntime's minimal builds, and the kernels that such a build needs",
    refuse=refuse,
    write=write,
)
