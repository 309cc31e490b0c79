"""Conversion to typed ONNX graphs, which ONNX Runtime runs and TensorRT builds engines from."""
