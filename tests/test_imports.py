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
