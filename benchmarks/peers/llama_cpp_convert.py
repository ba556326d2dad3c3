"""A checkpoint of any family that llama.cpp knows as GGUF, by llama.cpp's own converter, without a tokenizer.

The converter is Python of llama.cpp's source distribution, with a ``gguf`` of its own; so it has a process of its own:

    python benchmarks/peers/llama_cpp_convert.py SOURCE CHECKPOINT OUT.gguf
"""

import importlib
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory


def convert(source: Path, checkpoint: Path, out: Path) -> None:
    """Write ``checkpoint`` as ``out`` in bfloat16, where it is a matrix; tokens are numbers."""
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    gguf, conversion = importlib.import_module("gguf"), importlib.import_module("conversion")
    settings = conversion.ModelBase.load_hparams(checkpoint, False)
    kind = conversion.get_model_class(conversion.get_model_architecture(settings, conversion.ModelType.TEXT))
    size = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size"]

    class Nameless(kind):  # type: ignore[misc,valid-type] # llama.cpp's class, which is known when it runs
        """The model with numbers for tokens, and without layers that predict more tokens at once."""

        model_arch = kind.model_arch
        no_mtp = True

        def set_vocab(self) -> None:
            """See llama.cpp's base class."""
            self._set_vocab_none()
            self.gguf_writer.add_vocab_size(size)

    with TemporaryDirectory() as name:
        folder = Path(name)
        for path in (checkpoint / "config.json", *checkpoint.glob("*.safetensors*")):
            (folder / path.name).symlink_to(path.resolve())
        made_up = {"model": {"vocab": {str(token): token for token in range(size)}}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(made_up), encoding="utf-8")  # some cut embeddings to its size
        Nameless(folder, gguf.LlamaFileType.MOSTLY_BF16, out).write()


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:]))
