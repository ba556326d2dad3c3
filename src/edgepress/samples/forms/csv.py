"""A table (.csv, .tsv): a header, then a sample a line; files are named relative to its folder."""

import csv
import io
from pathlib import Path

from edgepress.errors import InputError
from edgepress.processing.feeder import Takes
from edgepress.samples.sample import SECONDS, VALUES, Form, Samples, of_list, of_record
from edgepress.schema import read_bytes
from edgepress.text.documents import decode

_LARGEST = 1 << 30  # bytes
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read(path: Path, takes: Takes) -> Samples:
    """Every line below the header.

    Raises:
        InputError: it is no table, has no header that is known, or names a file that is not there.

    """
    text = decode(read_bytes(path, "name a table of samples", largest=_LARGEST), path)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=_DELIMITERS[path.suffix.lower()], strict=True)
    try:
        records = [(rows.line_num, dict(row)) for row in rows]
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num} cannot be read: {error}") from error
    names = {*VALUES[takes], *SECONDS}
    if not names & {*(rows.fieldnames or ())}:
        known = ", ".join(VALUES[takes])
        raise InputError(f"{path}: its first line names no column that is known; write a header with one of {known}")
    samples = []
    for line, record in records:
        if None in record or None in record.values():
            raise InputError(f"{path}:{line} has another number of columns than the header")
        samples.append(of_record(dict(record), takes, f"{path}:{line}", path.parent))
    return of_list(samples, str(path))


FORM = Form("a table (.csv, .tsv)", lambda path, _: path.suffix.lower() in _DELIMITERS, read)
