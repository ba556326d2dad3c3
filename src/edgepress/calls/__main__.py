"""The process on the other side.

    python3 -m edgepress.calls FOLDER

Answers and reports are JSON objects, a line each, on what is standard output when the process starts; whatever else is
printed goes to standard error. When standard input ends, so does the process: who started it is gone.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from edgepress.calls.guest import Tell, main

_ABANDONED = 75  # exit code when standard input has ended: "try again" of sysexits.h


def _own_output() -> Tell:
    """Keep standard output for lines of ours; what others print goes to standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(line: dict[str, Any]) -> None:
        with lock:
            print(json.dumps(line), file=lines, flush=True)

    return tell


def _end_with_input() -> None:
    """Wait until whoever started this is gone, and end at once: nothing goes on running unseen on a device."""
    while os.read(0, 4096):
        pass
    os._exit(_ABANDONED)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    main(Path(sys.argv[1]), _own_output())
    sys.stderr.flush()
    os._exit(0)  # a thread still reads; libraries that tear down in their own time are not waited for
