"""What a model is: its description, the families that can be read, and what it computes, in torch."""
