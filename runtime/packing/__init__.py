"""Packs made of bundles (:mod:`edgepress.bundle.packs`): checked, copied, and measured as an app would use them."""
