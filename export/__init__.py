"""Export of trained models to ONNX, TensorRT and AOTInductor, with verification."""
