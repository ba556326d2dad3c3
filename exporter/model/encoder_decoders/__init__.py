"""Models of an encoder and a decoder: what they are made of, their families, and how their targets are searched for."""
