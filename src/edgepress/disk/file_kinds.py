"""What a file is, by its first bytes: for messages about files that were named in the place of others."""

import re
from pathlib import Path

from edgepress.disk.pointers import refuse_pointer

HEAD = 512  # bytes that are looked at: the name in a tar archive's header is the last thing

GGUF = "a GGUF file of llama.cpp"
ONNX = "an ONNX model"
ORT = "a model in ORT format, onnxruntime's own"
PICKLE = "a pickle"
HDF5 = "a Keras or TensorFlow file (HDF5)"
TFLITE = "a TensorFlow Lite model"
SAFETENSORS = "a safetensors file"
ZIP = "a zip archive"
ARCHIVE = "an archive"

_MAGIC = (  # where, bytes, what that is
    (0, b"GGUF", GGUF),
    *((0, magic, GGUF) for magic in (b"lmgg", b"fmgg", b"tjgg", b"algg")),  # what llama.cpp wrote before
    (0, b"\x89HDF\r\n\x1a\n", HDF5),
    (4, b"TFL3", TFLITE),
    (4, b"ORTM", ORT),
    (4, b"ET12", "an ExecuTorch program"),
    (8, b'{"', SAFETENSORS),
    *((0, b"\x80" + bytes([protocol]), PICKLE) for protocol in range(2, 6)),
    (0, b"PK\x03\x04", ZIP),
    *((0, magic, ARCHIVE) for magic in (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c")),
    (257, b"ustar", ARCHIVE),
)
_ONNX_FIRST = re.compile(rb"\x08[\x03-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]")  # ir_version, then another field
_PAGE = re.compile(rb"\s*<(!doctype html|html|\?xml)", re.IGNORECASE)


def kind_of(path: Path, head: bytes) -> str | None:
    """What a file is whose first :data:`HEAD` bytes are ``head``; None when they say nothing.

    Raises:
        InputError: it is a git-lfs pointer.

    """
    refuse_pointer(path, head)
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if _PAGE.match(head):
        return "a web page, as a server sends instead of a file that it does not give out"
    return ONNX if _ONNX_FIRST.match(head) else None
