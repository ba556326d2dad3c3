"""Execution providers in wheels of their own, and the only code that knows each. No onnx: devices have none."""
