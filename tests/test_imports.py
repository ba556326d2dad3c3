"""Imports flow one way, and nobody pays for what they do not use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "runtime": ("edgepress.exporter", "torch", "transformers", "onnx", "onnx_ir", "safetensors"),
    "targets": ("edgepress.exporter", "edgepress.runtime", "torch", "transformers", "onnx"),
    "exporter": ("edgepress.runtime.bench",),
}


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_no_file_imports_against_the_flow(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for module in imported_modules(path):
            for forbidden in FORBIDDEN[folder]:
                if forbidden == "onnx" and "legality" in path.parts:
                    continue  # reads models, on a build machine
                assert module != forbidden, f"{path} imports {module}"
                assert not module.startswith(f"{forbidden}."), f"{path} imports {module}"


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
