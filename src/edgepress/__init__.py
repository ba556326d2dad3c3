"""edgepress: from a checkpoint to a measured bundle.

Three parts, each importable on its own:

- :mod:`edgepress.exporter` — the build machine: checkpoint → bundle (needs the ``[export]`` extra).
- :mod:`edgepress.targets` — what a device can run, and why a node does or does not run there.
- :mod:`edgepress.runtime` — the device: bundle → tokens and measurements (numpy, onnxruntime, tokenizers only).
"""

__version__ = "0.2.0"
