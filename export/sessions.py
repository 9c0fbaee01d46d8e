"""One exported file, opened: tensors by name in, tensors by name out, on the device they are on."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from export import files

EMULATED = "half precision emulated"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class Session(Protocol):
    """What the runtime needs of an opened file."""

    metadata: dict[str, Any]
    inputs: list[str]
    device: torch.device
    providers: list[str]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name."""


class OnnxSession:
    """A file opened by onnxruntime; torch's memory is bound as it is, so nothing is copied through the host.

    Args:
        path: the .onnx file; files of large tensors beside it are checked first.
        provider: "cpu", "cuda", "tensorrt", or "auto": CUDA where a session really gets it, else the CPU.
        device_index: which GPU.
        cache: folder for TensorRT's engines and timings; by default `trt_cache` beside the file.
        threads: on the CPU; None for all cores.
        emulate_half: round as half-precision hardware does (see `export.emulate`); for `verify` on a CPU.

    Raises:
        ImportError: onnxruntime is missing.
        OSError: the file is torn, or names files outside its folder.
        RuntimeError: the provider asked for could not be had.
    """

    def __init__(
        self,
        path: Path,
        provider: str = "auto",
        *,
        device_index: int = 0,
        cache: Path | None = None,
        threads: int | None = None,
        emulate_half: bool = False,
    ) -> None:
        files.external_files(path)
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        if emulate_half:  # an optimizer might take the rounding out
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        asked = _providers(provider, device_index, cache or path.parent / "trt_cache", ort.get_available_providers())
        model, initializers = (emulated(path).SerializeToString(), {}) if emulate_half else _with_links(path)
        for name, values in initializers.items():
            options.add_external_initializers_from_files_in_memory([name], [values], [len(values)])
        try:
            self.session = ort.InferenceSession(model, options, providers=asked)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise RuntimeError(_refusal(path, provider, error)) from error
        self.providers: list[str] = self.session.get_providers() + [EMULATED] * emulate_half
        if provider in ("cuda", "tensorrt") and PROVIDERS[provider] not in self.providers:
            raise RuntimeError(
                f"onnxruntime did not give {PROVIDERS[provider]}, only {', '.join(self.providers)}: "
                "install 'jepa-hub[export-gpu]' (without onnxruntime beside it), CUDA and cuDNN"
                + (" and TensorRT" if provider == "tensorrt" else "")
                + "; `jepa-hub doctor` looks for what is wrong"
            )
        on_gpu = self.providers[0] != PROVIDERS["cpu"] and self.providers[0] in PROVIDERS.values()
        self.device = torch.device("cuda", device_index) if on_gpu else torch.device("cpu")
        self.metadata = files.read_metadata(self.session.get_modelmeta().custom_metadata_map)
        self.metadata["precision"] = self.metadata.get("precision", "unknown")
        self._types = {each.name: _TYPES[each.type] for each in self.session.get_inputs()}
        self.inputs = list(self._types)
        self._outputs = [each.name for each in self.session.get_outputs()]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, on the device of the session.

        Raises:
            ValueError: inputs are missing, unknown or of another type.
        """
        if set(inputs) != set(self.inputs):
            raise ValueError(f"this graph takes {', '.join(self.inputs)}; got {', '.join(inputs)}")
        binding = self.session.io_binding()
        kept = []  # alive until the run is over
        for name, tensor in inputs.items():
            wanted, numpy_type = self._types[name]
            if tensor.dtype != wanted:
                raise ValueError(f"{name} is {tensor.dtype}, this graph takes {wanted}")
            tensor = tensor.detach().to(self.device).contiguous()
            kept.append(tensor)
            index = tensor.device.index or 0
            binding.bind_input(name, tensor.device.type, index, numpy_type, tuple(tensor.shape), tensor.data_ptr())
        for name in self._outputs:
            binding.bind_output(name, self.device.type, self.device.index or 0)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # onnxruntime works on a stream of its own
        self.session.run_with_iobinding(binding)
        values = binding.get_outputs()
        return {
            name: torch.utils.dlpack.from_dlpack(value._ortvalue)
            for name, value in zip(self._outputs, values, strict=True)
        }


class AotiSession:
    """A package compiled by AOTInductor: machine code for the kind of device it was made on."""

    def __init__(self, path: Path, *, device_index: int = 0) -> None:
        told = _package_metadata(path)
        self.metadata = files.read_metadata(told)
        on_gpu = str(told.get("AOTI_DEVICE_KEY", "cpu")).startswith("cuda")
        if on_gpu and not torch.cuda.is_available():
            raise RuntimeError(f"{path.name} was compiled for CUDA, and there is no CUDA device here")
        self.device = torch.device("cuda", device_index) if on_gpu else torch.device("cpu")
        index = device_index if on_gpu else -1  # what AOTInductor calls the CPU
        self.package = torch._inductor.aoti_load_package(str(path), device_index=index)
        self.providers = [f"AOTInductor ({self.device.type})"]
        self.inputs: list[str] = self.metadata["inputs"]
        self._outputs: list[str] = self.metadata["outputs"]
        self._types: dict[str, str] = self.metadata["types"]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, on the device of the session.

        Raises:
            ValueError: inputs are missing, unknown or of another type, which compiled code would read as it stands.
        """
        if set(inputs) != set(self.inputs):
            raise ValueError(f"this graph takes {', '.join(self.inputs)}; got {', '.join(inputs)}")
        for name, tensor in inputs.items():
            if str(tensor.dtype) != f"torch.{self._types[name]}":
                raise ValueError(f"{name} is {tensor.dtype}, this graph takes torch.{self._types[name]}")
        with torch.no_grad():
            outputs = self.package(*(inputs[name].detach().to(self.device).contiguous() for name in self.inputs))
        return dict(zip(self._outputs, outputs, strict=True))


def _package_metadata(path: Path) -> dict[str, str]:
    """What a package says about itself, read without running it.

    Raises:
        OSError: it is torn, or is not a package.
    """
    try:
        with zipfile.ZipFile(path) as package:
            names = [name for name in package.namelist() if name.endswith("wrapper_metadata.json")]
            found = json.loads(package.read(names[0]))
    except (zipfile.BadZipFile, IndexError, ValueError) as error:
        raise OSError(f"{path} is torn or is not an AOTInductor package; download or export it again") from error
    return {str(key): str(value) for key, value in found.items()}


def open_session(path: Path, provider: str = "auto", **settings: Any) -> Session:
    """The session of an exported file, by its suffix."""
    if path.suffix == ".onnx":
        return OnnxSession(path, provider, **settings)
    return AotiSession(path)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("onnxruntime is missing: pip install 'jepa-hub[export]' (or [export-gpu])") from error
    return onnxruntime


def _numpy_types() -> dict[str, Any]:
    import numpy as np

    return {
        "tensor(float)": (torch.float32, np.float32),
        "tensor(int64)": (torch.int64, np.int64),
        "tensor(uint8)": (torch.uint8, np.uint8),
    }


_TYPES = _numpy_types()


def _providers(provider: str, index: int, cache: Path, available: list[str]) -> list[Any]:
    """What to ask onnxruntime for. That it lists a provider says nothing: sessions are asked what they got."""
    if provider not in ("auto", *PROVIDERS):
        raise ValueError(f"provider is auto, {', '.join(PROVIDERS)}; not {provider!r}")
    cuda = (PROVIDERS["cuda"], {"device_id": index})
    cpu = PROVIDERS["cpu"]
    if provider == "tensorrt":
        os.makedirs(cache, exist_ok=True)
        told = {
            "device_id": index,
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(cache),
        }
        wanted = [(PROVIDERS["tensorrt"], told), cuda, cpu]
    elif provider == "cuda" or (provider == "auto" and torch.cuda.is_available()):
        wanted = [cuda, cpu]
    else:
        wanted = [cpu]
    return [each for each in wanted if each == cpu or each[0] in available]


def _with_links(path: Path) -> tuple[Any, dict[str, bytes]]:
    """What to hand to onnxruntime: the path, or, where large tensors are links into the Hub's cache, their bytes.

    onnxruntime refuses files that are links to elsewhere; `files.external_files` has checked where these lead.
    """
    names = files.external_files(path)
    links = {name: path.parent / name for name in names if (path.parent / name).is_symlink()}
    if not links:
        return str(path), {}
    return path.read_bytes(), {name: link.read_bytes() for name, link in links.items()}


def emulated(path: Path) -> Any:
    """The ONNX model of a file in half precision, as `export.emulate` makes it runnable on a CPU."""
    import onnx_ir

    from export.emulate import rounded

    return onnx_ir.to_proto(rounded(path))


def _refusal(path: Path, provider: str, error: Exception) -> str:
    text = f"onnxruntime cannot open {path.name} with provider {provider!r}: {str(error).splitlines()[0]}"
    if "NOT_IMPLEMENTED" in str(error) and "bf16" in path.name:
        text += ". Its CPU provider has no bfloat16 products: take fp32 or int8 on a CPU, bf16 is for GPUs"
    return text
