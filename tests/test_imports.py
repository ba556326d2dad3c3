"""Nobody pays for what they do not use. Who may import whom: test_floors.py."""

import subprocess
import sys
from pathlib import Path


def modules_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return set(output.splitlines())


def test_the_runtime_loads_neither_torch_nor_onnx() -> None:
    loaded = modules_after("import edgepress.runtime; from edgepress.runtime import bench, evaluate, load")
    assert "edgepress.runtime" in loaded
    assert not loaded & {"torch", "onnx", "transformers", "safetensors", "edgepress.exporter"}


def test_targets_load_neither_onnx_nor_onnxruntime() -> None:
    loaded = modules_after(
        "from edgepress.targets import find_target, target_names\n[find_target(n) for n in target_names()]"
    )
    assert "edgepress.targets.wasm" in loaded
    assert not loaded & {"torch", "onnx", "onnxruntime", "numpy"}


def test_help_loads_no_library_at_all() -> None:
    code = "from edgepress.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not modules_after(code) & {"numpy", "onnx", "onnxruntime", "torch", "tokenizers", "transformers", "msgspec"}


def test_a_small_export_loads_neither_torch_nor_a_compiler(tmp_path: Path) -> None:
    code = f"from edgepress.exporter import export\nexport('demo', out={str(tmp_path / 'out')!r})"
    loaded = modules_after(code)
    assert (tmp_path / "out" / "manifest.json").exists()
    assert not loaded & {"torch", "transformers", "numba", "llvmlite"}


def test_opening_a_language_model_loads_nothing_that_opening_does_not_need() -> None:
    loaded = modules_after("from edgepress.runtime import load")
    assert "edgepress.runtime.model" in loaded
    late = ("chat", "processing", "targets", "tasks.task", "runtime.measures", "runtime.sequences", "runtime.tasks")
    late += ("runtime.generation.generation", "runtime.generation.several", "runtime.generation.speculation.kinds")
    assert not {f"edgepress.{name}" for name in late} & loaded
    assert not loaded & {"tokenizers", "subprocess", "jinja2"}


def test_every_name_that_the_runtime_lists_is_there() -> None:
    code = (
        "import edgepress.runtime as r\nassert set(r.__all__) <= set(dir(r)) and all(getattr(r, n) for n in r.__all__)"
    )
    assert "edgepress.runtime.measures.bench" in modules_after(code)
