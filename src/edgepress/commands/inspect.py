"""``edgepress inspect``: what a bundle or an ONNX file contains."""

import argparse
from pathlib import Path

NAME = "inspect"
HELP = "print what a bundle or ONNX file contains: operators, inputs, outputs, bytes, what pruning and zeros save"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("path", type=Path, help="a bundle directory, a pack of several or an .onnx file")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print the contents as tables or JSON."""
    import json

    from edgepress.bundle.packs import is_pack, read_index
    from edgepress.commands.pack import describe_pack
    from edgepress.exporter.bundle.written.inspection import format_inspection, inspect

    if is_pack(arguments.path):
        index = read_index(arguments.path)
        such = arguments.path / next(iter(index.bundles), "NAME")
        described = f"{describe_pack(arguments.path, index)}\neach is a bundle: `edgepress inspect {such}`"
        print(index.serialize() if arguments.json else described)
        return 0
    inspection = inspect(arguments.path)
    print(json.dumps(inspection, indent=2) if arguments.json else format_inspection(inspection))
    return 0
