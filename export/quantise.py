"""int8: matrix products of integers, with layers left alone that it would harm; measured, not guessed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jepa_hub.models.graphs import Graph

LEAST_COSINE = 0.999  # of the outputs on the calibration inputs; below, the worst products stay float32
MOST_LEFT = 0.25  # of the products may stay float32; beyond, the graph is refused

Inputs = Sequence[Mapping[str, Tensor]]


def quantise(
    source: Path,
    target: Path,
    precision: str,
    graph: Graph,
    calibration: Inputs,
    tell: Callable[[str], None],
) -> None:
    """Write `target`: the products with constant weights of `source` in int8, per output channel.

    "int8" scales activations by what it sees at each call, "int8_static" by what `calibration` held. With calibration
    inputs, products are left in float32, worst first, until the outputs agree to a cosine of LEAST_COSINE.

    Raises:
        ValueError: more than MOST_LEFT of the products would have to stay float32.
    """
    for old in (target, target.with_name(f"{target.name}_data")):
        old.unlink(missing_ok=True)
    try:
        _within_bounds(source, target, precision, graph, calibration, tell)
    except BaseException:  # a file that was refused must not be found and used
        target.unlink(missing_ok=True)
        target.with_name(f"{target.name}_data").unlink(missing_ok=True)
        raise
    finally:
        source.unlink()
        source.with_name(f"{source.name}_data").unlink(missing_ok=True)


def _within_bounds(
    source: Path, target: Path, precision: str, graph: Graph, calibration: Inputs, tell: Callable[[str], None]
) -> None:
    """Quantise, and again with more products left out, until the outputs agree."""
    products = _products(source)
    inputs = [{name: each[name].numpy() for name in graph.inputs} for each in calibration]
    left: list[str] = []
    _write(source, target, precision, inputs, left)
    if inputs:
        wanted = [_run(source, each) for each in inputs]
        ranked: list[str] | None = None
        while (reached := _agreement(wanted, [_run(target, each) for each in inputs])) < LEAST_COSINE:
            if ranked is None:
                tell(f"{target.name}: cosine {reached:.5f}; looking for the products that int8 harms")
                ranked = _by_harm(source, target, precision, inputs, products, wanted)
            step = max(1, len(products) // 16)
            left = ranked[: len(left) + step]
            if len(left) > MOST_LEFT * len(products):
                raise ValueError(
                    f"int8 agrees to a cosine of {reached:.5f} only, with {len(left) - step} of {len(products)} "
                    "products in float32; this model needs fp16"
                )
            _write(source, target, precision, inputs, left)
        tell(f"{target.name}: cosine {reached:.5f}, {len(left)} of {len(products)} products left in float32")


def _write(
    source: Path, target: Path, precision: str, inputs: Sequence[Mapping[str, Any]], left: Sequence[str]
) -> None:
    import onnx
    from onnxruntime.quantization import QuantType

    large = source.with_name(f"{source.name}_data").exists()
    common: dict[str, Any] = {
        "op_types_to_quantize": ["MatMul", "Gemm"],
        "per_channel": True,
        "weight_type": QuantType.QInt8,
        "nodes_to_exclude": list(left),
        "use_external_data_format": large,
        "extra_options": {"MatMulConstBOnly": True},
    }
    properties = {
        each.key: each.value for each in onnx.load_model(str(source), load_external_data=False).metadata_props
    }
    logging.disable(logging.WARNING)  # it advises a preparation that knows no symbolic sizes
    try:
        _quantised(source, target, precision, inputs, common)
    finally:
        logging.disable(logging.NOTSET)
    model = onnx.load_model(str(target), load_external_data=False)
    onnx.helper.set_model_props(model, {**properties, "jepa_hub.left_in_float32": str(len(left))})
    target.write_bytes(model.SerializeToString())


def _quantised(
    source: Path, target: Path, precision: str, inputs: Sequence[Mapping[str, Any]], common: dict[str, Any]
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    if precision == "int8":
        quantize_dynamic(str(source), str(target), **common)
    else:

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.rest = iter(inputs)

            def get_next(self) -> Any:
                return next(self.rest, None)

        quantize_static(
            str(source), str(target), Reader(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, **common
        )


def _products(path: Path) -> list[str]:
    """Names of the products whose second factor is a constant."""
    import onnx

    model = onnx.load_model(str(path), load_external_data=False)
    constant = {each.name for each in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in constant]


def _run(path: Path, inputs: Mapping[str, Any]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def _agreement(wanted: Sequence[Sequence[np.ndarray]], got: Sequence[Sequence[np.ndarray]]) -> float:
    """The lowest cosine of any output of any input; -1 where something is not finite."""
    lowest = 1.0
    for outputs, others in zip(wanted, got, strict=True):
        for a, b in zip(outputs, others, strict=True):
            x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
            cosine = float(x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-30))
            lowest = min(lowest, cosine if np.isfinite(cosine) else -1.0)
    return lowest


def _by_harm(
    source: Path,
    target: Path,
    precision: str,
    inputs: Sequence[Mapping[str, Any]],
    products: Sequence[str],
    wanted: Sequence[Sequence[np.ndarray]],
) -> list[str]:
    """Products, the most harmful first: each is quantised alone, and the outputs compared."""
    harm = {}
    for name in products:
        _write(source, target, precision, inputs[:1], [other for other in products if other != name])
        harm[name] = 1 - _agreement(wanted[:1], [_run(target, inputs[0])])
    return sorted(products, key=lambda name: -harm[name])
