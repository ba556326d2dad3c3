"""ORT format: the graph optimized ahead of time, and the list of kernels that a reduced onnxruntime build must have.

onnxruntime's own converter writes both (``onnxruntime.tools.convert_onnx_models_to_ort``): ``model.ort`` for apps that
ship onnxruntime's minimal build, which reads no ONNX, and ``required_operators_and_types.config`` for
``build.sh --minimal_build --include_ops_by_config``.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

from edgepress.errors import InputError
from edgepress.exporter.bundle.files import HALF_FILE, MODEL_FILE
from edgepress.exporter.bundle.forms import Form, FormTask
from edgepress.exporter.graph.ort_flatbuffer import sort_kernel_types
from edgepress.exporter.plan.planned import Writable
from edgepress.targets import Soc, Target
from edgepress.targets.footprint import ENTRY, smallest_runtime

ORT_FILES = {HALF_FILE: "model_fp16.ort", MODEL_FILE: "model.ort"}
CONFIG_FILE = "required_operators_and_types.config"
_LARGEST = 2**31 - 1  # bytes: a FlatBuffer is addressed by signed 32-bit offsets


def refuse(planned: Writable, target: Target, _socs: tuple[Soc, ...]) -> None:
    """Raise InputError when the weights do not fit in one file in ORT format."""
    scales = [t.regions["scales"].nbytes for t in planned.plan.tensors if t.form == "half blocks"]
    size = planned.plan.data_bytes + sum(scales)  # which the float32 graph has in float32
    if size > _LARGEST:
        raise InputError(
            f"{target.name}: the weights take {size / 1e9:.2f} GB and ORT format holds {_LARGEST / 1e9:.2f} GB; "
            "choose a smaller recipe, or --target arm64-cpu, whose bundle is in ONNX format"
        )


def write(task: FormTask) -> dict[str, object]:
    """Convert the bundle's graphs; weights are inside the files, since a minimal build reads no external data."""
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort
    from onnxruntime.tools.ort_format_model import create_config_from_models

    files = [file for file in ORT_FILES if (task.bundle / file).is_file()]
    made = [task.folder / ORT_FILES[file] for file in files]
    with contextlib.redirect_stdout(io.StringIO()), _quiet():
        for file in files:
            convert_onnx_models_to_ort(
                task.bundle / file,
                task.folder,
                [OptimizationStyle.Fixed],
                target_platform="arm",
                enable_type_reduction=True,
            )
            (task.folder / Path(file).with_suffix(".required_operators_and_types.config")).unlink()
        create_config_from_models(made, task.folder / CONFIG_FILE, enable_type_reduction=True)
    for path in made:
        sort_kernel_types(path)
    # Its head names the files by where they were converted: the bundle's bytes must not depend on that.
    names = " and ".join(path.name for path in made)
    written = (task.folder / CONFIG_FILE).read_text(encoding="utf-8")
    lines = [line for line in written.splitlines() if not line.startswith("#")]
    text = "\n".join([f"# operators and types of {names}, for onnxruntime's --include_ops_by_config", *lines]) + "\n"
    (task.folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    sizes = {path.name: path.stat().st_size for path in made}
    *preferred, last = sizes
    found: dict[str, object] = {
        "model": last,
        "operators": CONFIG_FILE,
        "bytes": sizes[last],
        ENTRY: smallest_runtime(text),
    }
    return found | ({"preferred": {name: sizes[name] for name in preferred}} if preferred else {})


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
