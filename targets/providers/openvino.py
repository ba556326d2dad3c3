"""Intel's OpenVINO provider, from the wheel onnxruntime-ep-openvino.

Its CPU device runs on Intel's processors: of another maker's the provider has none. Its NPU device needs an Intel NPU
and Intel's driver: the NPU's compiler is part of the driver and in no wheel, so nothing can be compiled for an NPU, or
asked about one, elsewhere.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal

from edgepress.errors import InputError
from edgepress.processor import cpu_name
from edgepress.targets import Soc
from edgepress.targets.providers.child import Child
from edgepress.targets.providers.sessions import assignment, open_on, stdout_to_stderr

PROVIDER = "OpenVINOExecutionProvider"
Device = Literal["CPU", "NPU"]


def version() -> str:
    """Return the version of the installed wheel; InputError says how to install it."""
    try:
        return installed("onnxruntime-ep-openvino")
    except PackageNotFoundError as error:
        raise InputError("the OpenVINO provider is not installed; `pip install 'edgepress[openvino]'`") from error


def simulated() -> bool:
    """Never: OpenVINO computes on the devices that are here."""
    version()
    return False


def host_soc(socs: Sequence[Soc]) -> Soc | None:  # noqa: ARG001 - every provider has this function
    """None: OpenVINO compiles for the device that it finds."""
    return None


def open_session(
    model: Path | bytes,
    soc: Soc | None = None,
    *,
    fp16: bool = False,
    fallback: bool = False,
    config: Mapping[str, str] | None = None,
    optimize: bool = True,
    device: Device = "CPU",
) -> Any:
    """Return an onnxruntime.InferenceSession of ``model`` on OpenVINO's ``device``.

    Args:
        model: a file or a serialized model.
        soc: None; OpenVINO compiles for the device that it finds.
        fp16: compute in float16, otherwise in float32. Left alone, OpenVINO would choose bfloat16 on CPUs that have it,
            and round what goes into packed products (MatMulNBits) to 8 bits.
        fallback: leave to onnxruntime's CPU provider what OpenVINO does not take; otherwise that is an error.
        config: further entries of the session's configuration.
        optimize: let onnxruntime fold and fuse nodes before the provider is asked.
        device: CPU or NPU.

    Raises:
        InputError: the wheel or the device is missing, a node is not taken, or OpenVINO fails.

    """
    name = model if isinstance(model, Path) else "the model"
    if soc is not None:
        raise InputError(f"OpenVINO compiles for the device that it finds; leave {soc.name} out")
    hints = {"INFERENCE_PRECISION_HINT": "f16" if fp16 else "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    options = {"load_config": json.dumps({device: hints})}
    devices = _devices(device)
    try:
        return open_on(devices, model, options, fallback=fallback, config=config, optimize=optimize, verbose=False)
    except Exception as error:  # onnxruntime's own have no common base
        if "fallback to CPU EP has been explicitly disabled" in str(error):
            raise InputError(
                f"{name}: OpenVINO does not take every node; `edgepress check MODEL --target openvino-cpu` says which "
                "and why"
            ) from error
        raise InputError(f"{name}: OpenVINO makes no session: {' '.join(str(error).split())}") from error


def ask(
    child: Child, model: Path, weights: Path, soc: Soc | None, *, optimize: bool = True, verbose: bool = False
) -> dict[str, Any]:
    """Ask in ``child`` where each node of ``model`` would run on the CPU device; as ``qnn.ask``.

    OpenVINO does not say why it leaves a node. On a machine that is no such device the answer is ``absent``, and why.
    """
    if soc is not None:
        raise InputError(f"OpenVINO compiles for the device that it finds; leave {soc.name} out")
    del verbose
    return child.call("openvino", "ask", model=str(model), weights=str(weights), optimize=optimize)


def answer(question: str, model: str, weights: str, optimize: bool) -> dict[str, Any]:
    """Answer a parent process (see child.py): ``ask`` is the one question."""
    assert question == "ask"
    try:
        _devices("CPU")
    except InputError as error:
        return {"absent": str(error)}
    config = {"session.model_external_initializers_file_folder_path": weights}
    session = open_session(Path(model).read_bytes(), fallback=True, config=config, optimize=optimize)
    return {"nodes": assignment(session), "unsupported": {}, "said": []}


def _devices(kind: Device) -> list[Any]:
    found = [device for device in _registered() if device.device.type.name == kind]
    if not found:
        reason = {
            "NPU": "the NPU's compiler comes with Intel's driver, not with the wheel",
            "CPU": f"its provider takes Intel's processors only, and this is {cpu_name()}; ask on a machine with one",
        }[kind]
        raise InputError(f"OpenVINO {version()} finds no {kind} on this machine: {reason}")
    return found[:1]


@cache
def _registered() -> list[Any]:
    """The provider's devices in this process. Registering happens once: a second time is an error."""
    version()
    import onnxruntime
    import onnxruntime_ep_openvino

    with stdout_to_stderr():
        onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_ep_openvino.get_library_path())
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
