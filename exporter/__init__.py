"""The build machine's part: checkpoint → bundle. ``from edgepress.exporter import export``."""

from edgepress.exporter.export import export
from edgepress.exporter.prepare import Prepared, decide

__all__ = ["Prepared", "decide", "export"]
