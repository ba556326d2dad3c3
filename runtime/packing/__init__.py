"""Packs made of bundles (:mod:`edgepress.packs`): checked, copied, and measured as an app would use them."""
