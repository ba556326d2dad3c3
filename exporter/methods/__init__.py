"""Methods in ``round/``, ``transform/``, ``repair/`` and ``shrink/``; :mod:`.kinds` says what a method is."""
