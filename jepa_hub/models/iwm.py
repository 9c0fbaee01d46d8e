"""Image World Models: a predictor that is told how the picture changes. Source: arXiv:2403.00504.

No official code is known. What the paper leaves open is decided here and said where it is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init

from jepa_hub import photometry
from jepa_hub.masks import Masks
from jepa_hub.models import inputs as model_inputs
from jepa_hub.models.base import JEPAModel, predictor_parts
from jepa_hub.models.config import JEPAConfig
from jepa_hub.nn.linear import Linear
from jepa_hub.nn.pooling import AttentivePooler
from jepa_hub.nn.positions import Grid
from jepa_hub.nn.predictor import Predictor

CONDITIONING = ("feature", "sequence", "none")


@strict
class IWMConfig(JEPAConfig):
    """I-JEPA whose predictor knows the photometric change between what it sees and what it predicts.

    Args:
        conditioning: how the predictor is told: "feature" (the change beside each mask token, mixed by a small
            network), "sequence" (one more token per number of the change) or "none" (it is not told).
        tasks: labels that a fine-tuned predictor reads out, with their numbers of classes; each has a task token and a
            head. Empty after pretraining.
    """

    model_type = "jepa_hub_iwm"

    conditioning: str = "feature"
    tasks: dict[str, int] | None = None

    def _check(self) -> None:
        super()._check()
        if self.conditioning not in CONDITIONING:
            raise ValueError(f"conditioning is one of {', '.join(CONDITIONING)}, not {self.conditioning!r}")
        if self.position_type.startswith("rotary_"):
            raise ValueError("an image world model places what it is told beside positions: rotary ones have no place")
        if any(count < 2 for count in (self.tasks or {}).values()):
            raise ValueError(f"each task has two classes or more, got {self.tasks}")

    @property
    def conditioning_size(self) -> int:
        """Numbers that tell a change."""
        return len(photometry.NAMES)


class ActionMixer(nn.Module):
    """Placed mask tokens and the numbers of a change, mixed back to the predictor's width by three linear layers."""

    def __init__(self, dim: int, numbers: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim + numbers, dim)
        self.fc2 = Linear(dim, dim)
        self.fc3 = Linear(dim, dim)

    def forward(self, tokens: Tensor, change: Tensor) -> Tensor:
        """[B, T, P] and [B, A] -> [B, T, P]."""
        beside = change[:, None].expand(-1, tokens.shape[1], -1).to(tokens.dtype)  # [B, T, A]
        x = F.gelu(self.fc1(torch.cat([tokens, beside], dim=-1)))
        return self.fc3(F.gelu(self.fc2(x)))


class ActionTokens(nn.Module):
    """One token per number of a change, each by a linear map of its own: attention could not tell them apart."""

    def __init__(self, dim: int, numbers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(numbers, dim))
        self.bias = nn.Parameter(torch.zeros(numbers, dim))

    def forward(self, change: Tensor) -> Tensor:
        """[B, A] -> [B, A, P]."""
        return change[..., None].to(self.weight.dtype) * self.weight + self.bias


class TaskTokens(nn.Module):
    """One learned token per task, which tells a fine-tuned predictor what it is asked for."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(count, dim))


class WorldPredictor(Predictor):
    """A predictor that is told the change from the seen to the predicted picture; None is no change."""

    def __init__(self, *args: Any, conditioning: str, numbers: int, num_tasks: int, **settings: Any) -> None:
        super().__init__(*args, **settings)
        dim = self.embed.out_features
        self.numbers = numbers
        self.mixer = ActionMixer(dim, numbers) if conditioning == "feature" else None
        self.action_tokens = ActionTokens(dim, numbers) if conditioning == "sequence" else None
        self.task_tokens = TaskTokens(dim, num_tasks) if num_tasks else None

    def query(self, masks: Masks, conditioning: Tensor | None = None) -> Tensor:
        """Mask tokens [B, M, T, P]; the change joins them once they are placed."""
        return super().query(masks)

    def placed(self, query: Tensor, conditioning: Tensor) -> Tensor:
        """Placed mask tokens [B*M, T, P] that know the change [B*M, A]."""
        return query if self.mixer is None else self.mixer(query, conditioning)

    def forward(
        self,
        context: Tensor,
        masks: Masks,
        grid: Grid,
        conditioning: Tensor | None = None,
        prefix: Tensor | None = None,
        task: int | None = None,
    ) -> Tensor:
        """Predicted target tokens [B, M, T, D]; see `Predictor.forward`.

        Args:
            context, masks, grid, prefix: see `Predictor.forward`.
            conditioning: [B, A], see `jepa_hub.photometry.conditioning`; None is no change.
            task: number of the task that is asked for, of a fine-tuned predictor.
        """
        change = self._change(conditioning, context)  # [B, A]
        before = [] if prefix is None else [prefix]
        if self.action_tokens is not None:
            before.append(self.action_tokens(change))  # [B, A, P]
        if task is not None:
            if self.task_tokens is None:
                raise ValueError("this predictor was not fine-tuned for tasks")
            before.append(self.task_tokens.tokens[task].expand(context.shape[0], 1, -1))  # [B, 1, P]
        return super().forward(context, masks, grid, change, torch.cat(before, dim=1) if before else None)

    def _change(self, conditioning: Tensor | None, like: Tensor) -> Tensor:
        if conditioning is None:
            return like.new_zeros(like.shape[0], self.numbers)
        if conditioning.shape != (like.shape[0], self.numbers):
            raise ValueError(
                f"conditioning is [{like.shape[0]}, {self.numbers}] (one row per picture, see "
                f"jepa_hub.photometry.NAMES), got {tuple(conditioning.shape)}"
            )
        return conditioning.to(like)


class TaskHead(nn.Module):
    """Class scores of one task from tokens: a learned query reads them, a linear layer follows."""

    def __init__(self, config: IWMConfig, num_classes: int) -> None:
        super().__init__()
        self.pooler = AttentivePooler(config.encoder_spec)
        self.linear = Linear(config.hidden_size, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, classes]."""
        return self.linear(self.pooler(tokens)[:, 0])


class IWMModel(JEPAModel):
    """An image world model: `predict(picture, conditioning={"brightness": 0.3})` gives latents of the changed picture.

    Named changes are those of `jepa_hub.photometry` (one number for all pictures or one per picture); None is no
    change. Without masks the whole picture is seen and predicted, [B, 1, N, D]; compare with `prediction_targets` of
    the changed picture. {"grayscale": 1} says that the picture is grey, and asks for the coloured one.

    After fine-tuning it also answers for its tasks: `read(picture, "shape")`.
    """

    targets_may_be_seen = True  # the target is another picture: where the source is visible, its change is not
    config_class = IWMConfig
    config: IWMConfig

    @staticmethod
    def build_predictor(config: Any) -> Predictor:
        """The conditioned predictor of `config`, uninitialised."""
        return WorldPredictor(
            config.predictor_spec,
            config.predictor_num_hidden_layers,
            conditioning=config.conditioning,
            numbers=config.conditioning_size,
            num_tasks=len(config.tasks or {}),
            **predictor_parts(config),
        )

    def build_heads(self, config: Any) -> None:
        """A head per task, which pretrained models have none of."""
        heads = {name: TaskHead(config, count) for name, count in (config.tasks or {}).items()}
        self.heads = nn.ModuleDict(heads) if heads else None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ActionMixer):
            # A standard deviation of 0.02 would fade positions and changes away at small widths.
            for linear in (module.fc1, module.fc2, module.fc3):
                gain = 1.0 if linear is module.fc3 else 2.0
                init.trunc_normal_(linear.weight, std=(gain / linear.in_features) ** 0.5)
        elif isinstance(module, ActionTokens):
            init.normal_(module.weight)
            init.normal_(module.bias)  # else the first norm would keep nothing of a number but its sign
        elif isinstance(module, TaskTokens):
            init.trunc_normal_(module.tokens, std=self.config.initializer_range)

    # ----------------------------------------------------------------------------------------------------- running

    def default_masks(self, num_tokens: int, batch_size: int) -> Masks:
        """The whole picture is seen and predicted."""
        return whole_masks(num_tokens, batch_size)

    def told(self, conditioning: Tensor | Mapping[str, Any] | None, batch_size: int) -> Tensor | None:
        """The encoding [B, 7] of named changes; see `jepa_hub.photometry.named_conditioning`."""
        if isinstance(conditioning, Mapping):
            return photometry.named_conditioning(conditioning, batch_size)
        return conditioning

    def task_logits(self, pixel_values: Tensor, task: str) -> Tensor:
        """Class scores [B, classes] of a task, from what the predictor makes of the whole, unchanged picture.

        A model without a predictor reads its encoder's tokens (the control of encoder fine-tuning).

        Args:
            pixel_values: [B, 3, H, W] or [B, 3, F, H, W], normalised.
            task: a name in `config.tasks`.

        Raises:
            ValueError: there is no such task.

        Source: arXiv:2403.00504, sec. 5.
        """
        pixels = model_inputs.as_clip(pixel_values)
        encoder = self.feature_encoder
        return self.logits_of(encoder(pixels), encoder.patch_embed.grid(pixels), task)

    def logits_of(self, tokens: Tensor, grid: Grid, task: str) -> Tensor:
        """`task_logits` from the feature encoder's tokens [B, N, D], which several tasks share."""
        names = sorted(self.config.tasks or {})  # config.json keeps no order
        if task not in names or self.heads is None:
            raise ValueError(f"unknown task {task!r}; this model was fine-tuned for {', '.join(names) or 'none'}")
        if self.predictor is not None:
            masks = whole_masks(tokens.shape[1], tokens.shape[0], tokens.device)
            predictor: Any = self.predictor
            tokens = predictor(tokens, masks, grid, task=names.index(task))[:, 0]  # [B, N, D]
        return self.heads[task](tokens)

    @torch.no_grad()
    def read(self, inputs: Tensor | Mapping[str, Any], task: str) -> Tensor:
        """Class probabilities [B, classes] of a task of a fine-tuned model; see `task_logits`."""
        return self.task_logits(model_inputs.prepare(inputs, self, pad=False).pixels, task).float().softmax(dim=-1)

    def start_tasks(self, tasks: Mapping[str, int]) -> None:
        """Give the model fresh task tokens and heads; what it had of them is dropped.

        Args:
            tasks: name -> number of classes.
        """
        self.config.tasks = dict(tasks)
        self.config._check()
        self.build_heads(self.config)
        fresh: list[nn.Module | None] = [self.heads]
        predictor: Any = self.predictor
        if predictor is not None:
            predictor.task_tokens = TaskTokens(self.config.predictor_hidden_size, len(tasks)) if tasks else None
            fresh.append(predictor.task_tokens)
        for each in fresh:
            for module in reversed(list(each.modules())) if each is not None else ():
                self._init_weights(module)
            if each is not None:
                each.to(self.device, self.dtype)
        self.bind_attention()


def whole_masks(num_tokens: int, batch_size: int, device: torch.device | str | None = None) -> Masks:
    """Every token is seen and predicted: context [B, N], target [B, 1, N]."""
    every = torch.arange(num_tokens, device=device).expand(batch_size, -1)  # [B, N]
    return Masks(every, every.unsqueeze(1))
