"""Any model as a float32 ONNX graph and what it is for: one file for each way in."""
