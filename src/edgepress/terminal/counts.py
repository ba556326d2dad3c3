"""Counts with their noun, as a person would say them."""


def counted(count: int, noun: str, more: str = "") -> str:
    """``1 beam``, ``2 beams``, ``1,200 tokens``; ``more`` is the plural where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else more or f'{noun}s'}"
