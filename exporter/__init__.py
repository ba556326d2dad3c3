"""The build machine's part: checkpoint → bundle. ``from edgepress.exporter import export``."""

from edgepress.exporter.decide.prepare import Prepared, decide
from edgepress.exporter.export import export

__all__ = ["Prepared", "decide", "export"]
