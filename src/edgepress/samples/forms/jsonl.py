"""JSON lines (.jsonl): an object for each sample; files are named relative to its folder."""

from pathlib import Path

from edgepress.errors import InputError
from edgepress.processing.feeder import Takes
from edgepress.samples.sample import Form, Samples, of_list, of_record
from edgepress.schema import parse_object, read_bytes

_LARGEST = 1 << 30  # bytes
_ENDINGS = (".jsonl", ".ndjson")


def read(path: Path, takes: Takes) -> Samples:
    """Every line that is not empty.

    Raises:
        InputError: a line is no JSON object, has no key that is known, or names a file that is not there.

    """
    remedy = "write a JSON object a line"
    lines = read_bytes(path, remedy, largest=_LARGEST).splitlines()
    samples = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}:{number}"
            samples.append(of_record(parse_object(line, where, remedy), takes, where, path.parent))
    if not samples:
        raise InputError(f"{path} is empty; {remedy}")
    return of_list(samples, str(path))


FORM = Form("JSON lines (.jsonl, .ndjson)", lambda path, _: path.suffix.lower() in _ENDINGS, read)
