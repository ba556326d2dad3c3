"""Qualcomm's QNN provider for Hexagon NPUs (HTP), from the wheel onnxruntime-qnn.

On x86-64 the wheel holds Qualcomm's own compiler and a simulator of the HTP: models can be compiled, asked about and
run without a phone. The simulator computes what the chip computes; the "cycles" that it counts are host time, and
nothing here reports them.
"""

import ctypes
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from edgepress.errors import InputError
from edgepress.targets import Soc
from edgepress.targets.providers.child import Child, heard
from edgepress.targets.providers.sessions import assignment, open_on, stdout_to_stderr

PROVIDER = "QNNExecutionProvider"
_MACHINE = Path("/sys/devices/soc0/machine")  # SM8650 and the like
_EMPTY_WORDS = re.compile(r"validateOpConfig failed|^Failed to|validateNativeOps|unexpected GraphHtpSettings")
CONTEXT_TIMEOUT = 3600.0  # seconds; a decoder of a billion weights takes the compiler minutes


def version() -> str:
    """Return the version of the installed wheel; InputError says how to install it."""
    return str(_wheel().__version__)


def simulated() -> bool:
    """Whether models run on the simulator, because this machine has no Hexagon NPU."""
    return not any(device.device.type.name == "NPU" for device in _devices())


def host_soc(socs: Sequence[Soc]) -> Soc | None:
    """Return the chip that this runs on, as Qualcomm's kernels name it in sysfs; None when it is none of ``socs``."""
    try:
        name = _MACHINE.read_text(encoding="utf-8").strip().lower()
    except (OSError, UnicodeDecodeError):
        return None
    return next((soc for soc in socs if soc.name == name), None)


def open_session(
    model: Path | bytes,
    soc: Soc | None = None,
    *,
    fp16: bool = False,
    fallback: bool = False,
    options: Mapping[str, str] | None = None,
    config: Mapping[str, str] | None = None,
    optimize: bool = True,
    verbose: bool = False,
) -> Any:
    """Return an onnxruntime.InferenceSession of ``model`` that is compiled for ``soc``, and run there or simulated.

    Args:
        model: a file, a serialized model, or the ONNX file of a context binary (see ``compile_context``).
        soc: the chip to compile for; None takes the one that this runs on.
        fp16: compute float nodes in float16; without it the HTP takes quantized nodes only.
        fallback: leave to the CPU what the HTP does not take. Otherwise that is an error: never silently.
        options: further options of the provider.
        config: further entries of the session's configuration.
        optimize: let onnxruntime fold and fuse nodes before the provider is asked.
        verbose: log everything to stderr.

    Raises:
        InputError: the wheel is missing, a node is not taken, or the compiler fails.

    """
    if fp16 and soc is None:
        raise InputError("float16 on the HTP needs to know the chip; name one with --soc")
    every = _options(soc, fp16) | dict(options or {})
    devices = _devices()[:1]
    try:
        return open_on(devices, model, every, fallback=fallback, config=config, optimize=optimize, verbose=verbose)
    except Exception as error:  # onnxruntime's own have no common base
        raise InputError(_refusal(model, soc, str(error))) from error


Refuse = Callable[[Path], None]
"""Raises InputError for a model that would be computed wrongly."""


def compile_context(
    model: Path,
    out: Path,
    soc: Soc,
    *,
    refuse: Callable[[Path], None],
    fp16: bool = False,
    timeout: float = CONTEXT_TIMEOUT,
) -> tuple[Path, Path]:
    """Compile ``model`` for ``soc`` into the ONNX file ``out`` and the context binary beside it; return both paths.

    ``refuse`` is asked first, and raises InputError for what would be computed wrongly
    (:func:`edgepress.targets.legality.traps.refuse_traps`, which needs onnx).

    The binary is named ``<out's stem>_qnn.bin``. The bytes depend on the model, its file name, the chip and the wheel
    only. Two things make them so. The compiler numbers graphs and tensors by counters of the process, so each
    compilation has a process of its own. And onnxruntime names graphs by a hash of the path that it is given, so that
    process works in the model's folder and names the file alone.

    Raises:
        InputError: the wheel is missing, a node is not taken by the HTP or would be computed wrongly, or the compiler
            fails or crashes.

    """
    return out, compile_shared([model], [out], soc, refuse=refuse, fp16=fp16, timeout=timeout)


def compile_shared(
    models: Sequence[Path],
    outs: Sequence[Path],
    soc: Soc,
    *,
    refuse: Callable[[Path], None],
    fp16: bool = False,
    timeout: float = CONTEXT_TIMEOUT,
) -> Path:
    """Compile several models of one folder into one context binary that holds equal weights once; return its path.

    Each model gets its ONNX file of ``outs``, in one folder; the binary is named after the first. As
    ``compile_context``, for a prefill and a decode graph of one decoder. The simulator does not open a binary of more
    than one graph: what it holds can be tried on a chip only.
    """
    version()
    if len({path.resolve().parent for path in models}) != 1 or len({path.resolve().parent for path in outs}) != 1:
        raise InputError("graphs that share a context binary must lie in one folder, and be compiled into one folder")
    for model in models:
        refuse(model)
    binary = outs[0].with_name(f"{outs[0].stem}_qnn.bin")
    written = [*outs, binary]
    for path in written:
        path.unlink(missing_ok=True)  # the provider would not replace them
    outs[0].parent.mkdir(parents=True, exist_ok=True)
    with Child(timeout, folder=models[0].resolve().parent) as child:
        pairs = [(model.name, str(out.resolve())) for model, out in zip(models, outs, strict=True)]
        told = child.call("qnn", "compile", pairs=pairs, soc=asdict(soc), fp16=fp16)
    if "error" in told or not all(path.is_file() for path in written):
        for path in written:
            path.unlink(missing_ok=True)
        error = told.get("error", f"{models[0].name}: the compiler wrote no context binary")
        raise InputError(f"{models[0].parent}/{error}")
    return binary


def ask(
    child: Child, model: Path, weights: Path, soc: Soc | None, *, optimize: bool = True, verbose: bool = False
) -> dict[str, Any]:
    """Ask in ``child``, because the compiler can crash, where each node of ``model`` would run.

    ``weights`` is the folder of its external data; files that the provider writes come to lie beside ``model``. Returns
    ``nodes`` (as ``assignment`` returns them), ``unsupported``, the provider's own words for nodes that it does not
    take, by node name, and with ``verbose`` in ``said`` what its log calls errors; or ``error``, when there is no
    session at all.
    """
    assert soc is not None, "legality.asked asks about a chip only"
    return child.call(
        "qnn", "ask", model=str(model), weights=str(weights), soc=asdict(soc), optimize=optimize, verbose=verbose
    )


def answer(question: str, **arguments: Any) -> dict[str, Any]:
    """Answer a parent process (see child.py): ``compile`` a context binary, or ``ask`` where each node would run."""
    soc = Soc(**arguments.pop("soc"))
    return _compile(soc=soc, **arguments) if question == "compile" else _ask(soc=soc, **arguments)


def _compile(pairs: list[list[str]], soc: Soc, fp16: bool) -> dict[str, Any]:
    sessions = []  # the first holds the context that the others join
    for index, (model, out) in enumerate(pairs):
        config = {"ep.context_enable": "1", "ep.context_file_path": out, "ep.context_embed_mode": "0"}
        if len(pairs) > 1:
            config["ep.share_ep_contexts"] = "1"
            config["ep.stop_share_ep_contexts"] = str(int(index == len(pairs) - 1))
        sessions.append(open_session(Path(model), soc, fp16=fp16, config=config))
    return {}


def _ask(model: str, weights: str, soc: Soc, optimize: bool, verbose: bool) -> dict[str, Any]:
    import json

    trace = Path(model).with_name("qnn_op_trace.json")
    trace.unlink(missing_ok=True)
    said: list[str] = []
    try:
        with heard(said) if verbose else nullcontext():
            session = open_session(
                Path(model).read_bytes(),
                soc,
                fp16=soc.float16,
                fallback=True,
                options={"enable_framework_op_trace": "1", "framework_op_trace_dir": str(trace.parent)},
                config={"session.model_external_initializers_file_folder_path": weights},
                optimize=optimize,
                verbose=verbose,
            )
    except InputError as error:
        return {"error": str(error), "said": _errors_of_the_backend(said)}
    told = json.loads(trace.read_text(encoding="utf-8"))["unsupported_nodes"] if trace.is_file() else []
    unsupported = {node["node_name"]: node["reason"] for node in told}
    return {"nodes": assignment(session), "unsupported": unsupported, "said": _errors_of_the_backend(said)}


def _errors_of_the_backend(lines: list[str]) -> list[str]:
    """What Qualcomm's backend logs as errors, without those that only say that there were some."""
    said = dict.fromkeys(line.split("<E>", 1)[1].strip() for line in lines if "<E>" in line)
    return [line for line in said if not _EMPTY_WORDS.search(line)]


def _options(soc: Soc | None, fp16: bool) -> dict[str, str]:
    chip = {} if soc is None else {"soc_model": str(soc.model), "htp_arch": str(soc.arch)}
    return chip | {
        "backend_path": _wheel().get_qnn_htp_path(),
        "enable_htp_fp16_precision": str(int(fp16)),
        "offload_graph_io_quantization": "0",  # else the graph's first and last nodes run on the CPU
    }


def _refusal(model: Path | bytes, soc: Soc | None, error: str) -> str:
    name = model if isinstance(model, Path) else "the model"
    chip = soc.name if soc else "this machine"
    if "fallback to CPU EP has been explicitly disabled" in error:
        where = f" --soc {soc.name}" if soc else ""
        return (
            f"{name}: the HTP of {chip} does not take every node; "
            f"`edgepress check MODEL --target qnn-htp{where}` says which, why, and what would change it"
        )
    lines = " ".join(error.split())
    return f"{name}: Qualcomm's compiler makes no session for {chip}: {lines}"


def _wheel() -> Any:
    try:
        import onnxruntime_qnn
    except ImportError as error:
        raise InputError("the QNN provider is not installed; `pip install 'edgepress[qnn]'`") from error
    return onnxruntime_qnn


@cache
def _devices() -> list[Any]:
    """The provider's devices in this process, NPUs first. Registering happens once: a second time is an error."""
    import onnxruntime

    wheel = _wheel()
    with stdout_to_stderr():
        onnxruntime.register_execution_provider_library(PROVIDER, wheel.get_library_path())
        ctypes.CDLL(wheel.get_qnn_htp_path())  # greets on stdout when it is loaded, which would spoil --json
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    if not devices:
        raise InputError(f"onnxruntime-qnn {wheel.__version__} finds nothing on this machine to compile or run with")
    return sorted(devices, key=lambda device: device.device.type.name != "NPU")
