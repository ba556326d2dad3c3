"""The build machine's part: checkpoint → bundle. ``from edgepress.exporter import export``."""

from edgepress.exporter.export import Prepared, decide, export

__all__ = ["Prepared", "decide", "export"]
