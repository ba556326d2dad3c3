"""The machine that runs a bundle: its memory and energy, and devices that are reached from here."""
