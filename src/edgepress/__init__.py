"""edgepress: from a checkpoint to a measured bundle.

Three parts, each importable on its own:

- :mod:`edgepress.exporter` — the build machine: checkpoint → bundle (needs the ``[export]`` extra).
- :mod:`edgepress.targets` — what a device can run, and why a node does or does not run there.
- :mod:`edgepress.runtime` — the device: bundle → tokens and measurements (numpy, onnxruntime, tokenizers, msgspec).

Importing any of it switches off what onnxruntime, onnxruntime-genai and the hub's client send about their use, in this
process and in those that it starts; whoever sets ``ORT_DISABLE_TELEMETRY`` or ``HF_HUB_DISABLE_TELEMETRY`` decides.
"""

import os

__version__ = "0.2.0"

# Here and nowhere later: onnxruntime reads its variable when it is loaded, and then keeps a device id and a queue of
# events that name models. The hub's client (and hf_xet, which transfers files for it) reads the other.
for _name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    if not os.environ.get(_name):
        os.environ[_name] = "1"
