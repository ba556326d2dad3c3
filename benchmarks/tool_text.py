"""A tool's file, open, with one text; run as a script, a cold start to its first token, and where that went.

    python benchmarks/tool_text.py TOOL PATH THREADS CONTEXT TOKEN...

A process that times a tool has in it what the tool needs and nothing else, so this file imports nothing of edgepress,
of other tools or of the benchmarks. Stages are in CPU seconds, which other work on the machine changes less than time.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from time import process_time
from typing import Any, Protocol


class Tool(Protocol):
    """A tool's file, open, with one text."""

    def begin(self, tokens: list[int]) -> int:
        """A new text; return the likeliest token after it."""

    def append(self, tokens: list[int]) -> int:
        """The text goes on; return the likeliest token after it."""


class Ours:
    """edgepress.runtime."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        from edgepress.runtime import load

        self._model = load(path, threads=threads, context=context)

    def begin(self, tokens: list[int]) -> int:
        """As a conversation begins."""
        return int(self._model.begin(tokens, reuse=True).argmax())

    def append(self, tokens: list[int]) -> int:
        """A token by the path of decoding, several by that of prompts."""
        logits = self._model.decode(tokens[0]) if len(tokens) == 1 else self._model.prefill(tokens)
        return int(logits.argmax())


class Genai:
    """onnxruntime-genai, its generator loop in C++."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        import onnxruntime_genai

        self._library, self._context = onnxruntime_genai, context
        config = onnxruntime_genai.Config(str(path))
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = onnxruntime_genai.Model(config)

    def begin(self, tokens: list[int]) -> int:
        """A generator for each text."""
        params = self._library.GeneratorParams(self._model)
        params.set_search_options(max_length=self._context, min_length=self._context, do_sample=False)
        self._generator = self._library.Generator(self._model, params)
        self._last: int | None = None
        return self.append(tokens)

    def append(self, tokens: list[int]) -> int:
        """The token that it chose itself comes without being appended: then only the next is asked for."""
        if tokens != [self._last]:
            import numpy as np

            self._generator.append_tokens(np.array(tokens, np.int32))
        self._generator.generate_next_token()
        self._last = int(self._generator.get_next_tokens()[0])
        return self._last


class LlamaCpp:
    """llama.cpp with its own defaults on the CPU."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        from peers.llama_cpp_text import Text

        self._text = Text(path, threads, context)

    def begin(self, tokens: list[int]) -> int:
        """Forget what there was."""
        self._text.forget()
        return self.append(tokens)

    def append(self, tokens: list[int]) -> int:
        """In pieces of at most what it takes at once."""
        self._text.append(tokens)
        return self._text.likeliest()


TOOLS: dict[str, Callable[[Path, int, int], Tool]] = {
    "edgepress": Ours,
    "onnxruntime-genai": Genai,
    "llama.cpp": LlamaCpp,
}
LIBRARIES = {
    "edgepress": ("numpy", "onnxruntime", "edgepress.runtime.loading"),
    "onnxruntime-genai": ("numpy", "onnxruntime_genai"),
    "llama.cpp": ("numpy", "llama_cpp"),
}
"""What each imports, in this order."""


def first_token(tool: str, path: Path, threads: int, context: int, tokens: list[int]) -> dict[str, Any]:
    """Open a file, take a prompt, choose a token: CPU seconds of each, and the most memory that was resident."""
    import resource

    seconds = {"interpreter": process_time()}
    for name in LIBRARIES[tool]:
        start = process_time()
        import_module(name)
        seconds[name.partition(".")[0]] = process_time() - start
    start = process_time()
    text = TOOLS[tool](path, threads, context)
    seconds["opening"] = process_time() - start
    start = process_time()
    token = text.begin(tokens)
    seconds["first token"] = process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"token": token, "cpu_s": seconds, "peak_bytes": peak}


if __name__ == "__main__":
    _tool, _path, _threads, _context, *_tokens = sys.argv[1:]
    print(json.dumps(first_token(_tool, Path(_path), int(_threads), int(_context), list(map(int, _tokens)))))
