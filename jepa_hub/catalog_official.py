"""Rows of what the authors of I-JEPA, V-JEPA, V-JEPA 2, PAWS and Llip published, and of weights not loadable here.

Data with a function per family for what its rows share. Scores were read in the authors' README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jepa_hub.catalog_row import ALL_NETWORKS, Checkpoint, Preprocessing, Score


def _pixels(size: int, **frames: Any) -> Preprocessing:
    return Preprocessing(image_size=size, resize=int(size * 256 / 224), **frames)  # Upstream: 256 before a 224 crop


# I-JEPA ---------------------------------------------------------------------------------------------------------------
_IJEPA_SIZES = {"vith14": 630_434_560, "vith16-448": 630_664_960, "vitg16": 1_011_092_608}
_ENCODER_ONLY = (
    "Holds one encoder: per the conversion script the context encoder, while evaluations use the target encoder; the"
    " official file has all three networks. The repository's own preprocessor squashes to a square and normalises with"
    " 0.5; the preprocessing given here is the authors'."
)


def _ijepa(size: str, data: str, file: str, hub_id: str) -> tuple[Checkpoint, Checkpoint]:
    image_size = 448 if size.endswith("448") else 224
    side = image_size // (14 if size == "vith14" else 16)
    name = f"ijepa-{size}-{data}"
    shared: dict[str, Any] = {
        "family": "ijepa",
        "licence": "cc-by-nc-4.0",
        "paper": "2301.08243",
        "parameters": _IJEPA_SIZES[size],
        "preprocessing": _pixels(image_size),
        "grid_size": (1, side, side),
    }
    official = Checkpoint(
        name,
        source=f"https://dl.fbaipublicfiles.com/ijepa/{file}",
        layout="official",
        licence_source="LICENSE of github.com/facebookresearch/ijepa",
        networks=ALL_NETWORKS,
        config={"image_size": image_size, "num_attention_heads": 16, "predictor_num_attention_heads": 16},
        **shared,
    )
    hub = Checkpoint(
        f"{name}-hub",
        source=hub_id,
        layout="transformers",
        licence_source="licence tag of the Hub page",
        networks=("encoder",),
        note=_ENCODER_ONLY,
        **shared,
    )
    return official, hub


IJEPA = (
    *_ijepa("vith14", "in1k", "IN1K-vit.h.14-300e.pth.tar", "facebook/ijepa_vith14_1k"),
    *_ijepa("vith16-448", "in1k", "IN1K-vit.h.16-448px-300e.pth.tar", "facebook/ijepa_vith16_1k"),
    *_ijepa("vith14", "in22k", "IN22K-vit.h.14-900e.pth.tar", "facebook/ijepa_vith14_22k"),
    *_ijepa("vitg16", "in22k", "IN22K-vit.g.16-600e.pth.tar", "facebook/ijepa_vitg16_22k"),
)

# V-JEPA ---------------------------------------------------------------------------------------------------------------
_VJEPA_VIDEO_PROTOCOL = "frozen attentive probe, 16 frames x {} segments x 3 views"
_VJEPA_IMAGE_PROTOCOL = "frozen attentive probe, the image repeated as a 16-frame clip"
_VJEPA_PROBES: dict[str, tuple[str, str, dict[str, int]]] = {  # file stem: data set, protocol, config
    "k400": ("Kinetics-400", _VJEPA_VIDEO_PROTOCOL.format(8), {"num_segments": 8, "num_views": 3}),
    "ssv2": ("Something-Something-v2", _VJEPA_VIDEO_PROTOCOL.format(2), {"num_segments": 2, "num_views": 3}),
    "in1k": ("ImageNet-1k", _VJEPA_IMAGE_PROTOCOL, {}),
    "places": ("Places205", _VJEPA_IMAGE_PROTOCOL, {}),
    "inat": ("iNaturalist 2021", _VJEPA_IMAGE_PROTOCOL, {}),
}


def _vjepa(folder: str, image_size: int, parameters: int, accuracies: tuple[float, ...]) -> tuple[Checkpoint, ...]:
    url = f"https://dl.fbaipublicfiles.com/jepa/{folder}"
    shared: dict[str, Any] = {
        "family": "vjepa",
        "layout": "official",
        "licence": "cc-by-nc-4.0",
        "licence_source": "LICENSE of github.com/facebookresearch/jepa",
        "paper": "2404.08471",
        "preprocessing": _pixels(image_size, num_frames=16, frame_step=4),
        "grid_size": (8, image_size // 16, image_size // 16),
    }
    scores = tuple(
        Score(dataset, "top-1 accuracy", accuracy, protocol, "README of github.com/facebookresearch/jepa")
        for (dataset, protocol, _), accuracy in zip(_VJEPA_PROBES.values(), accuracies, strict=True)
    )
    heads = {"num_attention_heads": 16, "predictor_num_attention_heads": 16}
    model = Checkpoint(
        f"vjepa-{folder}",
        source=f"{url}/{folder}.pth.tar",
        networks=ALL_NETWORKS,
        config={"image_size": image_size, "num_frames": 16, **heads},
        parameters=parameters,
        scores=scores,
        **shared,
    )
    probes = (
        Checkpoint(
            f"vjepa-{folder}-{stem}-probe",
            source=f"{url}/{stem}-probe.pth.tar",
            networks=(),
            kind="probe",
            backbone=model.name,
            config={"num_attention_heads": 16, "num_frames": 16, **protocol},
            scores=(score,),
            **shared,
        )
        for (stem, (_, _, protocol)), score in zip(_VJEPA_PROBES.items(), scores, strict=True)
    )
    return model, *probes


VJEPA = (
    *_vjepa("vitl16", 224, 303_885_312, (80.8, 69.5, 74.8, 60.3, 67.8)),
    *_vjepa("vith16", 224, 631_648_000, (82.0, 71.4, 75.9, 61.7, 67.9)),
    *_vjepa("vith16-384", 384, 631_648_000, (81.9, 72.2, 77.4, 62.8, 72.6)),
)

# V-JEPA 2 -------------------------------------------------------------------------------------------------------------
_VJEPA2_URL = "https://dl.fbaipublicfiles.com/vjepa2"
_VJEPA2_SIZES = {"vitl": 303_885_312, "vith": 631_648_000, "vitg": 1_012_173_952}
_VJEPA2: dict[str, Any] = {
    "family": "vjepa2",
    "layout": "official",
    "licence": "mit",
    "licence_source": "LICENSE of github.com/facebookresearch/vjepa2",
    "paper": "2506.09985",
}
_VJEPA2_HUB: dict[str, Any] = {
    **_VJEPA2,
    "layout": "transformers",
    "licence_source": "LICENSE of github.com/facebookresearch/vjepa2; the licence tag of the Hub page was not read",
    "networks": ("encoder", "predictor"),
}
_APACHE: dict[str, Any] = {"licence": "apache-2.0", "licence_source": "licence tag of the Hub page (Meta's code: MIT)"}
_ONE_ENCODER = (
    "Holds one encoder and the predictor: per the conversion script the encoder is the context encoder, while"
    " evaluations use the target encoder; the official file has all three networks."
)
_CLASSIFIER = (
    "A published probe attached to the base repository's encoder. One view of a clip scores differently from the"
    " several segments and views of the official probe, so no score is quoted here."
)
_NO_EK100 = (
    "an anticipation probe: three queries (verb, noun, action) that read encoder tokens and predicted tokens of the"
    " next second together, which Probe does not implement."
)
_BEST_HEAD = "best of 20 heads on the validation set"
_VJEPA2_TASKS: dict[str, tuple[str, str, str, dict[str, Any]]] = {  # data set, metric, protocol, config
    "ssv2": (
        "Something-Something-v2",
        "top-1 accuracy",
        f"frozen attentive probe, {{}} frames x 2 segments x 3 views, {_BEST_HEAD}",
        {"num_segments": 2, "num_views": 3},
    ),
    "diving48": (
        "Diving48",
        "top-1 accuracy",
        f"frozen attentive probe on four layers, {{}} frames x 4 segments x 3 views, {_BEST_HEAD}",
        {"num_segments": 4, "num_views": 3},
    ),
    "ek100": (
        "EPIC-KITCHENS-100",
        "recall at 5",
        f"frozen attentive probe on encoder and predicted tokens, {{}} frames at 8 fps, 1 s ahead, {_BEST_HEAD}",
        {"anticipation_seconds": 1.0},
    ),
}


def _vjepa2_probe(
    task: str, file: str, backbone: str, score: float, layers: tuple[int, ...] = (), **frames: Any
) -> Checkpoint:
    dataset, metric, protocol, config = _VJEPA2_TASKS[task]
    num_frames, image_size = frames["num_frames"], int(backbone.split("-")[-1])
    readme = "README of github.com/facebookresearch/vjepa2"
    return Checkpoint(
        f"{backbone}-{task}-probe",
        source=f"{_VJEPA2_URL}/evals/{file}",
        networks=(),
        preprocessing=_pixels(image_size, **frames),
        grid_size=(num_frames // 2, image_size // 16, image_size // 16),
        kind="probe",
        backbone=backbone,
        config={
            "num_attention_heads": 16,
            "num_frames": num_frames,
            **config,
            **({"layers": layers} if layers else {}),
        },
        unsupported=_NO_EK100 if task == "ek100" else None,
        scores=(Score(dataset, metric, score, protocol.format(num_frames), readme),),
        **_VJEPA2,
    )


_L, _G = "vjepa2-vitl-256", "vjepa2-vitg-384"
_DIVING48_LAYERS = {"vitl": (17, 19, 21, 23), "vitg": (24, 29, 34, 39)}  # joined by the probe, as it was trained
_VJEPA2_PROBES = (
    _vjepa2_probe("ssv2", "ssv2-vitl-16x2x3.pt", _L, 73.7, num_frames=16, frame_step=4),
    _vjepa2_probe("ssv2", "ssv2-vitg-384-64x2x3.pt", _G, 77.3, num_frames=64, frame_step=2),
    _vjepa2_probe("diving48", "diving48-vitl-256.pt", _L, 89.0, _DIVING48_LAYERS["vitl"], num_frames=32, frame_step=2),
    _vjepa2_probe(
        "diving48", "diving48-vitg-384-32x4x3.pt", _G, 90.2, _DIVING48_LAYERS["vitg"], num_frames=32, frame_step=2
    ),
    _vjepa2_probe("ek100", "ek100-vitl-256.pt", _L, 32.7, num_frames=32, fps=8.0),
    _vjepa2_probe("ek100", "ek100-vitg-384.pt", _G, 39.7, num_frames=32, fps=8.0),
)


def _vjepa2(size: str, image_size: int, file: str, hub_licence: Mapping[str, Any]) -> tuple[Checkpoint, Checkpoint]:
    name = f"vjepa2-{size}-{image_size}"
    heads = 22 if size == "vitg" else 16  # width 1408 has 22 heads here, 16 in I-JEPA
    shared: dict[str, Any] = {
        "preprocessing": _pixels(image_size, num_frames=64, fps=4.0),
        "grid_size": (32, image_size // 16, image_size // 16),
        "parameters": _VJEPA2_SIZES[size],
    }
    official = Checkpoint(
        name,
        source=f"{_VJEPA2_URL}/{file}",
        networks=ALL_NETWORKS,
        config={
            "image_size": image_size,
            "num_frames": 64,
            "num_attention_heads": heads,
            "predictor_num_attention_heads": 12,
        },
        scores=tuple(score for probe in _VJEPA2_PROBES if probe.backbone == name for score in probe.scores),
        **shared,
        **_VJEPA2,
    )
    hub_id = f"facebook/vjepa2-{size}-fpc64-{image_size}"
    hub = Checkpoint(f"{name}-hub", source=hub_id, note=_ONE_ENCODER, **shared, **{**_VJEPA2_HUB, **hub_licence})
    return official, hub


def _vjepa2_classifier(size: str, image_size: int, task: str, num_frames: int, frame_step: int) -> Checkpoint:
    return Checkpoint(
        f"vjepa2-{size}-{image_size}-{task}-hub",
        source=f"facebook/vjepa2-{size}-fpc{num_frames}-{image_size}-{task}",
        preprocessing=_pixels(image_size, num_frames=num_frames, frame_step=frame_step),
        grid_size=(num_frames // 2, image_size // 16, image_size // 16),
        kind="probe",
        backbone=f"vjepa2-{size}-{image_size}-hub",
        parameters=_VJEPA2_SIZES[size],
        config={"num_attention_heads": 16, **({"layers": _DIVING48_LAYERS[size]} if task == "diving48" else {})},
        note=_CLASSIFIER,
        **_VJEPA2_HUB,
    )


VJEPA2 = (
    *_vjepa2("vitl", 256, "vitl.pt", {}),
    *_vjepa2("vith", 256, "vith.pt", {}),
    *_vjepa2("vitg", 256, "vitg.pt", _APACHE),
    *_vjepa2("vitg", 384, "vitg-384.pt", _APACHE),
    *_VJEPA2_PROBES,
    _vjepa2_classifier("vitl", 256, "ssv2", num_frames=16, frame_step=4),
    _vjepa2_classifier("vitg", 384, "ssv2", num_frames=64, frame_step=2),
    _vjepa2_classifier("vitl", 256, "diving48", num_frames=32, frame_step=2),
    _vjepa2_classifier("vitg", 384, "diving48", num_frames=32, frame_step=2),
)

# Known, and not loadable here -----------------------------------------------------------------------------------------
_NO_AC = (
    "its predictor takes robot actions and states (24 layers of width 1024, frame-causal attention): another network,"
    " which this package does not have. The V-JEPA 2 encoder it was trained on is vjepa2-vitg-256."
)
_NO_2_1 = (
    "V-JEPA 2.1 has no stable published layout known here: its torch.hub entry pointed to a localhost address and its"
    " configurations and checkpoints disagree (facebookresearch/vjepa2 issues 149, 150, 156, 163)."
)


def _unsupported(name: str, file: str, image_size: int, num_frames: int | None, reason: str) -> Checkpoint:
    pixels = _pixels(image_size, num_frames=num_frames, fps=4.0 if num_frames else None)
    return Checkpoint(
        name, source=f"{_VJEPA2_URL}/{file}", networks=(), preprocessing=pixels, unsupported=reason, **_VJEPA2
    )


UNSUPPORTED = (
    _unsupported("vjepa2-ac-vitg", "vjepa2-ac-vitg.pt", 256, 8, _NO_AC),
    _unsupported("vjepa2.1-vitb-384", "vjepa2_1_vitb_dist_vitG_384.pt", 384, None, _NO_2_1),
    _unsupported("vjepa2.1-vitl-384", "vjepa2_1_vitl_dist_vitG_384.pt", 384, None, _NO_2_1),
    _unsupported("vjepa2.1-vitg-384", "vjepa2_1_vitg_384.pt", 384, None, _NO_2_1),
    _unsupported("vjepa2.1-vitgigantic-384", "vjepa2_1_vitG_384.pt", 384, None, _NO_2_1),
)


# PAWS -----------------------------------------------------------------------------------------------------------------
def _paws(labels: str, epochs: int, value: float, *, tuned: bool = False) -> Checkpoint:
    file = f"paws_imgnt_{labels}percent_{epochs}ep{'_finetuned' if tuned else ''}.pth.tar"
    protocol = f"ResNet-50, {labels} % of the labels, " + ("fine-tuned" if tuned else "nearest neighbours (PAWS-NN)")
    return Checkpoint(
        f"paws-resnet50-{labels}pct-{epochs}ep{'-finetuned' if tuned else ''}",
        family="paws",
        source=f"https://dl.fbaipublicfiles.com/paws/{file}",
        layout="official",
        licence="mit",
        licence_source="LICENSE of facebookresearch/suncet",
        paper="2104.13963",
        networks=("encoder",),
        preprocessing=_pixels(224),
        grid_size=(1, 7, 7),
        parameters=23_508_032,
        scores=(Score("ImageNet", "top-1 accuracy, %", value, protocol, "README of facebookresearch/suncet"),),
        note=(
            "Has a classifier of 1000 classes, by number."
            if tuned
            else "Classifies by labelled pictures: classify(images, support_images, support_labels)."
        ),
    )


PAWS = (
    *(_paws("1", epochs, value) for epochs, value in ((100, 61.5), (200, 63.2), (300, 64.2))),
    *(_paws("10", epochs, value) for epochs, value in ((100, 71.0), (200, 71.9), (300, 73.1))),
    _paws("1", 300, 66.5, tuned=True),
    _paws("10", 300, 75.5, tuned=True),
)


# Llip -----------------------------------------------------------------------------------------------------------------
_CLIP_PIXELS = Preprocessing(
    image_size=224,
    resize=224,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    interpolation="bicubic",
)


def _llip(size: str, file: str, tokens: int, side: int, parameters: int, value: float) -> Checkpoint:
    protocol = "mean of the zero-shot sets of the authors' evaluation"
    return Checkpoint(
        f"llip-{size}-k{tokens}",
        family="llip",
        source=f"https://dl.fbaipublicfiles.com/llip/{file}",
        layout="official",
        licence="cc-by-nc-4.0",
        licence_source="LICENSE of github.com/facebookresearch/Llip",
        paper="2405.00740",
        networks=("encoder",),
        preprocessing=_CLIP_PIXELS,
        grid_size=(1, side, side),
        config={"mixing_temperature": 5.0, "num_mixing_heads": 8},
        parameters=parameters,
        scores=(Score("zero-shot", "mean accuracy, %", value, protocol, "README of github.com/facebookresearch/Llip"),),
        note="Pictures and texts: encode_image, encode_text, logits; jepa_hub.zero_shot classifies and retrieves.",
    )


LLIP = (
    _llip("vitb16", "llip_b16_k32.pt", 32, 14, 85_847_040, 69.6),
    _llip("vitgigantic14", "llip_G14_k64.pt", 64, 16, 1_842_987_008, 79.3),
)
