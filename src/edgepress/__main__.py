"""``python -m edgepress``: the same as the ``edgepress`` command."""

from edgepress.cli import main

raise SystemExit(main())
