"""``edgepress adapter``: a LoRA adapter → the file that a bundle with slots takes."""

import argparse
from pathlib import Path

from edgepress.terminal.stdio import say

NAME = "adapter"
HELP = "write an adapter that peft saved as a file for a bundle made with --adapter-slots"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument("adapter", type=Path, metavar="DIR", help="a LoRA adapter, as peft saves it")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file, such as law.onnx_adapter")
    parser.add_argument("--force", action="store_true", help="replace FILE when it is there")


def run(arguments: argparse.Namespace) -> int:
    """Write the file, and say what is in it."""
    from edgepress.exporter.bundle.adapter_file import write_adapter

    written = write_adapter(arguments.bundle, arguments.adapter, arguments.out, force=arguments.force)
    print(
        f"{arguments.out}: {written.note}; {written.slots} slots have factors, {written.bytes / 1e6:,.3f} MB, "
        "written and read back"
    )
    say(f"next: edgepress run {arguments.bundle} --adapter {arguments.out} --prompt …")
    return 0
