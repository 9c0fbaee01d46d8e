"""Settings of a run: what a recipe may say, checked before anything is built."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator

Precision = Literal["fp32", "bf16", "fp16", "fp64"]
Span = tuple[float, float]


def nearest(name: str, known: Iterable[str]) -> str:
    """The words " (did you mean 'x'?)" for the known name closest to `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


class Section(BaseModel):
    """Settings that refuse what they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Named(BaseModel):
    """A section that chooses an entry of a registry by `name`; its other keys are that entry's own settings."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    name: str

    @property
    def own(self) -> dict[str, Any]:
        """The settings of the entry itself."""
        return dict(self.model_extra or {})


class ModelSettings(Named):
    """The model to train: `name` is a family of MODELS, other keys are fields of its configuration.

    Attributes:
        size: a published size such as vit_base; fields given beside it win.
        checkpoint: weights to start from (Hub id, catalog name, folder, official file) instead of random ones.
    """

    size: str | None = None
    checkpoint: str | None = None


class ViewSettings(Section):
    """What a method sees of a sample.

    Attributes:
        crop_scale: share of the area that a random crop keeps; null takes the largest centred crop.
        crop_aspect: width / height of the crop, drawn log-uniformly.
        flip: probability of a horizontal flip.
        colour_jitter: strengths of brightness, contrast, saturation and hue, or null.
        grayscale: probability of losing the colours.
        blur: probability of a Gaussian blur.
        jitter: probability of the colour jitter.
        solarize: probability of inverting every value above a threshold that is drawn uniformly.
        equalize: probability of equalising the histogram of each colour channel.
        flicker: standard deviation, of a range of values of 1, of soft blotches of light that are drawn anew for every
            frame: detail that nothing foretells.
        interpolation: of the crop.
    """

    crop_scale: Span | None = (0.3, 1.0)
    crop_aspect: Span = (3 / 4, 4 / 3)
    flip: float = Field(default=0.0, ge=0, le=1)
    colour_jitter: tuple[float, float, float, float] | None = None
    grayscale: float = Field(default=0.0, ge=0, le=1)
    blur: float = Field(default=0.0, ge=0, le=1)
    jitter: float = Field(default=1.0, ge=0, le=1)
    solarize: float = Field(default=0.0, ge=0, le=1)
    equalize: float = Field(default=0.0, ge=0, le=1)
    flicker: float = Field(default=0.0, ge=0, le=1)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @field_validator("crop_scale", "crop_aspect")
    @classmethod
    def _ordered(cls, value: Span | None) -> Span | None:
        if value is not None and not 0 < value[0] <= value[1]:
            raise ValueError(f"needs 0 < low <= high, got {list(value)}")
        return value


class PhotometrySettings(Section):
    """Two views of one crop that differ in colours alone: a source that is seen and a target that is predicted.

    Attributes:
        colour_jitter: strengths of brightness, contrast, saturation and hue (a share of the colour circle), drawn for
            either view on its own.
        jitter: probability of the jitter, for either view on its own.
        grayscale, blur, solarize: probabilities, for the source alone: a target stays rich.
        blur_std: of the blur, in pixels.
    """

    colour_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter: float = Field(default=0.8, ge=0, le=1)
    grayscale: float = Field(default=0.0, ge=0, le=1)
    blur: float = Field(default=0.0, ge=0, le=1)
    solarize: float = Field(default=0.0, ge=0, le=1)
    blur_std: Span = (0.1, 2.0)

    @field_validator("colour_jitter")
    @classmethod
    def _in_range(cls, value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if not all(0 <= each <= 1 for each in value[:3]) or not 0 <= value[3] <= 0.5:
            raise ValueError(f"strengths lie in [0, 1], that of hue in [0, 0.5], got {list(value)}")
        return value

    @field_validator("blur_std")
    @classmethod
    def _ordered(cls, value: Span) -> Span:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"needs 0 < low <= high, got {list(value)}")
        return value


class SmallViewSettings(Section):
    """Small views of a sample beside the large ones (multi-crop).

    Attributes:
        count: of each sample.
        size: pixels of their sides.
        crop_scale: share of the area that they keep.
    """

    count: PositiveInt
    size: PositiveInt
    crop_scale: Span


class SupportSettings(Section):
    """Labelled samples that come with every batch; views are those of `data.views`.

    Attributes:
        label: of the source, a class.
        source: where labelled samples come from; null takes the training source.
        per_class: labelled samples of each class; the others count as unlabelled.
        fraction: share of each class that is labelled, instead of `per_class`; with neither, all samples are.
        subset: a text file of the numbers of labelled samples, one a line, instead.
        seed: of the choice; null takes run.seed. More labels of the same seed hold the fewer ones.
        classes: drawn for each batch and worker; null takes all.
        images: distinct samples of each of these classes; null takes all that are labelled.
        num_views: of each sample, each augmented on its own.
        unique_classes: whether workers draw different classes instead of sharing them.
        until: share of the schedule after which no labelled samples are read any more (SuNCEt switches off).
    """

    label: str
    source: Named | None = None
    per_class: PositiveInt | None = None
    fraction: float | None = Field(default=None, gt=0, le=1)
    subset: str | None = None
    seed: int | None = Field(default=None, ge=0)
    classes: PositiveInt | None = None
    images: PositiveInt | None = None
    num_views: PositiveInt = 1
    unique_classes: bool = False
    until: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _one_choice(self) -> SupportSettings:
        given = [name for name in ("per_class", "fraction", "subset") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"choose one of per_class, fraction and subset, not {' and '.join(given)}")
        return self


class CaptionSettings(Section):
    """Texts that come with every sample.

    Attributes:
        per_sample: drawn for each sample and step, different ones while there are enough.
        kind: stored (those of the source) or scene (phrases made from the scene graph of a drawn scene).
        positions: whether scene phrases may tell places and relations.
    """

    per_sample: PositiveInt = 1
    kind: Literal["stored", "scene"] = "stored"
    positions: bool = True


class DataSettings(Section):
    """Where samples come from and how they are batched.

    Attributes:
        source: an entry of SOURCES and its settings.
        views: how a sample is cropped and coloured.
        photometry: a second view of the same crop, which is the target, or null; colours are then set here alone.
        num_views: large views of each sample.
        small_views: further views of each sample, or null.
        support: labelled samples beside the batch, or null.
        captions: texts of each sample, or null.
        batch_size: samples per device and forward pass.
        workers: processes that read and crop, per device; 0 reads in the training process.
        prefetch: batches that each worker keeps ready.
        max_bad: share of samples that may be unreadable before the run stops; each is logged with its path.
    """

    source: Named
    views: ViewSettings = ViewSettings()
    photometry: PhotometrySettings | None = None
    num_views: PositiveInt = 1
    small_views: SmallViewSettings | None = None
    support: SupportSettings | None = None
    captions: CaptionSettings | None = None
    batch_size: PositiveInt
    workers: int = Field(default=0, ge=0)
    prefetch: PositiveInt = 2
    max_bad: float = Field(default=0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _one_place_for_colours(self) -> DataSettings:
        views = self.views
        if self.photometry is None:
            return self
        if views.colour_jitter or views.grayscale or views.blur or views.solarize or views.equalize:
            raise ValueError("data.photometry sets the colours of both views: leave them out of data.views")
        if self.num_views > 1 or self.small_views or self.support:
            raise ValueError(
                "data.photometry makes two views of one crop: leave out num_views, small_views and support"
            )
        return self

    @property
    def support_views(self) -> int:
        """Views of each labelled sample."""
        return self.support.num_views if self.support else 0


class OptimSettings(Section):
    """Optimizer and schedules; learning rates are as given (not scaled by the batch).

    Attributes:
        name: adamw, lars or sgd (with Nesterov's momentum).
        lr: peak learning rate.
        start_lr, final_lr: at the first step and at the end of the schedule.
        warmup_steps: steps to the peak.
        schedule: cosine or linear after the warm-up (linear with final_lr = lr is constant).
        schedule_scale: all schedules (learning rate, weight decay, momentum) run over schedule_scale x run.steps, so
            that 1.25 stops at four fifths of each, as V-JEPA does (its ipe_scale).
        weight_decay: [start, final], a half cosine between them; biases and one-dimensional parameters have none.
        clip_norm: largest gradient norm of each network; null does not clip.
        clip_after: clip only from this step on (V-JEPA clips after its warm-up).
        trust: of LARS.
        momentum: of LARS and SGD.
    """

    name: Literal["adamw", "lars", "sgd"] = "adamw"
    lr: PositiveFloat
    start_lr: float = Field(default=0.0, ge=0)
    final_lr: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["cosine", "linear"] = "cosine"
    schedule_scale: float = Field(default=1.0, ge=1)
    weight_decay: Span = (0.04, 0.4)
    betas: Span = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    clip_norm: PositiveFloat | None = None
    clip_after: int = Field(default=0, ge=0)
    trust: PositiveFloat = 1e-3
    momentum: float = Field(default=0.9, ge=0, lt=1)

    @field_validator("weight_decay", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, (int, float)) else value


class RunSettings(Section):
    """The run itself.

    Attributes:
        steps: optimizer steps.
        accumulation: forward and backward passes per optimizer step.
        precision: fp32, bf16 or fp16 (autocast, float32 weights), or fp64 (for tests of exactness).
        seed: of weights, data order, views and masks.
        out: folder of the run.
        log_every, save_every: in steps.
        keep_last: checkpoints kept.
        compile: torch.compile every transformer block.
        activation_checkpointing: recompute activations in the backward pass.
        trackers: names that Accelerate knows (tensorboard, wandb, trackio); log.jsonl is always written.
        threads: of torch on a CPU; null leaves torch's own choice.
    """

    steps: PositiveInt
    accumulation: PositiveInt = 1
    precision: Precision = "fp32"
    seed: int = Field(default=0, ge=0)
    out: str
    log_every: PositiveInt = 50
    save_every: PositiveInt = 1000
    keep_last: PositiveInt = 2
    compile: bool = False
    activation_checkpointing: bool = False
    trackers: tuple[str, ...] = ()
    threads: PositiveInt | None = None


class WatchSettings(Section):
    """The guard against collapse and divergence, measured every log_every steps.

    Attributes:
        collapse: "stop", "warn" or "off": what happens when features stop carrying information.
        min_std: features (standardised per token) count as collapsed when their spread over tokens and samples is
            below this.
        min_rank: RankMe below which features count as collapsed.
        patience: measurements in a row that must agree.
        rank_samples: vectors RankMe is computed from.
    """

    collapse: Literal["stop", "warn", "off"] = "stop"
    min_std: float = Field(default=0.02, ge=0)
    min_rank: float = Field(default=1.5, ge=0)
    patience: PositiveInt = 3
    rank_samples: PositiveInt = 512


class OnlineProbeSettings(Section):
    """A probe on frozen features during training; its best score chooses the checkpoint in `best/`.

    Attributes:
        every: steps between probes.
        kind: knn or linear, of any model's features; support (the run's labelled samples classify), of a PAWS model;
            classifier (its own), of a PAWS or PiT model.
        label: which label of the source is read out.
        source: where the labelled samples come from; null takes the training source.
        num_train, num_test: samples.
    """

    every: PositiveInt
    kind: Literal["knn", "linear", "support", "classifier"] = "knn"
    label: str
    source: Named | None = None
    num_train: PositiveInt = 1000
    num_test: PositiveInt = 500


class Settings(Section):
    """Everything that determines a run."""

    model: ModelSettings
    method: Named
    masks: Named | None = None
    data: DataSettings
    optim: OptimSettings
    averaging: Named = Named(name="all_reduce")
    run: RunSettings
    watch: WatchSettings = WatchSettings()
    probe: OnlineProbeSettings | None = None

    @model_validator(mode="after")
    def _schedule_fits(self) -> Settings:
        if self.optim.warmup_steps > self.run.steps * self.optim.schedule_scale:
            raise ValueError(
                f"optim.warmup_steps ({self.optim.warmup_steps}) is longer than the schedule "
                f"({self.run.steps} steps x {self.optim.schedule_scale:g})"
            )
        return self

    @property
    def total_steps(self) -> int:
        """Length of every schedule."""
        return int(self.run.steps * self.optim.schedule_scale)
