"""Functions of edgepress called in another process: here, on an emulated processor, on a phone or a board.

``guest.py`` is what runs there (``python3 -m edgepress.calls``), ``host.py`` what starts it and reads its answers. Who
calls decides where it runs; the function is the same.
"""

from edgepress.calls.guest import Answer, Arrays, Function, report
from edgepress.calls.host import Call

__all__ = ["Answer", "Arrays", "Call", "Function", "report"]
