"""The build machine's part: checkpoint → bundle. ``from edgepress.exporter import export``."""

from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.decide.prepare import decide
from edgepress.exporter.export import export

__all__ = ["Prepared", "decide", "export"]
