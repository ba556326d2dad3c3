"""Building the ONNX graph of a bundle."""
