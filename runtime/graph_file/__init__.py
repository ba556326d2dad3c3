"""What a bundle's graph files hold, read and rewritten as bytes, without onnx."""
