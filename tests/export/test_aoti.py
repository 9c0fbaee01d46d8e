"""AOTInductor packages: the same runtime, the same numbers; one graph here, every family in the slow run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export import to_aoti as module
from export.runtime import OnnxJEPAModel
from export.sessions import AotiSession
from export.to_aoti import to_aoti
from jepa_hub.models.registry import MODELS
from tests.conftest import REQUIRE_ALL
from tests.export.exports import assert_same, exportable
from tests.official import tiny_pixels


@pytest.fixture
def compiler() -> None:
    """Skip, with the way out, where there is no C++ compiler."""
    try:
        module.require_compiler("cpu")
    except RuntimeError as error:
        if REQUIRE_ALL:
            raise
        pytest.skip(str(error))


@pytest.mark.usefixtures("compiler")
def test_one_package(tmp_path: Path) -> None:
    model = exportable("vjepa2", networks=["encoder"])
    to_aoti(model, tmp_path, graphs=["features"])
    exported = OnnxJEPAModel.from_pretrained(tmp_path, file_format="aoti")
    assert exported.providers == ["AOTInductor (cpu)"]
    assert_same(model, exported)
    session = AotiSession(tmp_path / "aoti" / "model.pt2")
    assert session.metadata["graph"] == "features" and session.metadata["inputs"] == ["pixel_values"]
    for dtype in (torch.float64, torch.float16, torch.int32):  # compiled code would read them as float32
        with pytest.raises(ValueError, match=r"this graph takes torch\.float32"):
            session.run({"pixel_values": tiny_pixels("vjepa2").to(dtype)})


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("family", MODELS)
def test_every_family(family: str, tmp_path: Path) -> None:
    model = exportable(family)
    to_aoti(model, tmp_path)
    assert_same(model, OnnxJEPAModel.from_pretrained(tmp_path, file_format="aoti"))


@pytest.mark.usefixtures("compiler")
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exportable("ijepa", networks=["encoder"])
    with pytest.raises(ValueError, match="for int8 use --to onnx"):
        to_aoti(model, tmp_path, precision="int8")
    (tmp_path / "torn.pt2").write_bytes(b"PK torn")
    with pytest.raises(OSError, match="torn"):
        AotiSession(tmp_path / "torn.pt2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="no CUDA device here"):
        module.require_compiler("cuda")
