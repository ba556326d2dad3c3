"""The parts of an answer: what the model thought, what it says, and the tools that it calls."""
