"""Reading ONNX models, of anyone: files safely, then values, producers, consumers, constants, types and shapes.

Needs onnx, which devices do not have: the runtime imports nothing of this folder.
"""
