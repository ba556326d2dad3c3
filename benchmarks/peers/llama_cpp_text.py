"""llama.cpp with one text, for what is timed: this file imports nothing that llama.cpp would not need by itself."""

import ctypes
from functools import cache
from pathlib import Path

import llama_cpp
import numpy as np


@llama_cpp.llama_log_callback  # type: ignore[misc] # the package's decorators have no types
def _silent(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """llama.cpp logs every tensor to stderr."""


@cache
def begin() -> None:
    """Start llama.cpp, and keep it silent."""
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


class Text:
    """A model in llama.cpp on the CPU with one text, otherwise as it is by default.

    ``batch`` is how many tokens it takes at once; with ``float32`` keys and values are kept in that, not in float16.
    """

    def __init__(
        self, path: Path, threads: int, context: int, *, batch: int | None = None, float32: bool = False
    ) -> None:
        begin()
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot read {path}")
        how = llama_cpp.llama_context_default_params()
        how.n_ctx, how.n_threads, how.n_threads_batch = context, threads, threads
        if batch is not None:
            how.n_batch = batch
        if float32:
            how.type_k = how.type_v = llama_cpp.GGML_TYPE_F32
        self._batch = how.n_batch
        self._context = llama_cpp.llama_init_from_model(self._model, how)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def forget(self) -> None:
        """Begin another text."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def append(self, tokens: list[int]) -> None:
        """Append tokens to the text, in pieces of at most what it takes at once."""
        for start in range(0, len(tokens), self._batch):
            piece = tokens[start : start + self._batch]
            values = (llama_cpp.llama_token * len(piece))(*piece)
            status = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(values, len(piece)))
            if status:
                raise RuntimeError(f"llama_decode of {len(piece)} tokens failed: status {status}")

    def likeliest(self) -> int:
        """The likeliest token after the text."""
        logits = llama_cpp.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())
