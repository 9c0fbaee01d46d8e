"""Entry points of torch.hub.

    torch.hub.load("OWNER/jepa_hub", "jepa_model", "vjepa2-vitl-256")          # from GitHub
    torch.hub.load("path/to/clone", "jepa_model", "ijepa-tiny-scenes", source="local")

Each passes its arguments on; nothing is imported until it is called.
"""

from typing import Any

dependencies = ["av", "huggingface_hub", "numpy", "PIL", "safetensors", "torch", "transformers"]


def jepa_model(name: str, **settings: Any) -> Any:
    """`JEPAModel.from_pretrained`: a model by catalog name, Hub id, folder, URL or official file."""
    from jepa_hub.models.base import JEPAModel

    return JEPAModel.from_pretrained(name, **settings)


def jepa_processor(name: str, **settings: Any) -> Any:
    """`JEPAProcessor.from_pretrained`: the preprocessing that fits the model of that name."""
    from jepa_hub.processing import JEPAProcessor

    return JEPAProcessor.from_pretrained(name, **settings)


def jepa_probe(name: str, **settings: Any) -> Any:
    """`Probe.from_pretrained`: a classifier on frozen features, by catalog name, Hub id, folder or official file."""
    from jepa_hub.models.probe import Probe

    return Probe.from_pretrained(name, **settings)
