"""Pictures of what pixel transformers learn about where things are: how far heads look, what positions are like.

    python -m training.claims.pit_pictures p1=runs/pit-tiny_digits/final --out pictures

Models of shuffled pixels are shown as if the pixels were put back.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.pit import PiTModel
from jepa_hub.nn.attention import Attention
from jepa_hub.nn.positions import LearnedPositions
from training.claims.pit import finish


@dataclass(frozen=True)
class Trained:
    """A model, pictures it can be shown, and where its tokens come from.

    Attributes:
        model: of the family pit.
        pixels: [B, 3, 1, H, W], normalised.
        order: of shuffled pixels, where token i was before, int64 [N]; None where nothing is shuffled.
    """

    model: PiTModel
    pixels: Tensor
    order: Tensor | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        _, rows, columns = self.model.encoder.grid(self.pixels)
        return rows, columns

    @property
    def apart(self) -> Tensor:
        """Between the tokens, before any shuffling, in pixels [N, N]."""
        found = distances(*self.grid) * self.model.config.patch_size
        return found if self.order is None else found[self.order][:, self.order]


def distances(rows: int, columns: int) -> Tensor:
    """Between the tokens of a grid, in tokens [N, N]."""
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).flatten(0, 1)
    return torch.cdist(places.float(), places.float())


@torch.no_grad()
def attention_distances(trained: Trained) -> Tensor:
    """Mean distance in pixels of what each head looks at [layers, heads]; of the class token nothing is counted.

    Raises:
        ValueError: attention is within windows, where it cannot be far.
    """
    model, apart = trained.model, trained.apart
    if model.config.attention_window is not None:
        raise ValueError("attention within windows is near whatever is learned")
    first = model.config.num_extra_tokens
    found: list[Tensor] = []
    hooks = []

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(layer, Attention)
        query, key, _ = layer.qkv(inputs[0]).unflatten(-1, (3, layer.num_heads, -1)).unbind(2)  # [B, N, H, D/H]
        scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1) * query.shape[-1] ** -0.5  # [B, H, N, N]
        weights = scores[..., first:, first:].softmax(-1)
        found.append((weights * apart).sum(-1).mean((0, 2)))  # [H]

    try:
        for block in model.encoder.blocks:
            assert isinstance(block.attn, Attention)
            hooks.append(block.attn.register_forward_pre_hook(look))
        model.pooled(trained.pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found)


def position_cosines(trained: Trained) -> Tensor:
    """Cosines of the learned positions, their mean taken off, shuffled pixels put back [N, N].

    Raises:
        ValueError: positions are not learned.
    """
    positions = trained.model.encoder.positions
    if not isinstance(positions, LearnedPositions):
        raise ValueError("this model's positions are not learned")
    table = positions.table.detach()
    table = nn.functional.normalize(table - table.mean(0), dim=-1)
    if trained.order is not None:
        table = table[trained.order.argsort()]
    return table @ table.T


def neighbour_score(cosines: Tensor, rows: int, columns: int) -> tuple[float, float]:
    """Share of tokens, in per cent, whose most similar position is one of the 8 around them; and the same by chance."""
    apart = distances(rows, columns)
    near = (apart < 1.5) & (apart > 0)
    others = cosines.masked_fill(torch.eye(len(cosines), dtype=torch.bool), -torch.inf)
    hit = near[torch.arange(len(cosines)), others.argmax(1)].float().mean()
    return 100 * float(hit), 100 * float(near.float().sum(1).mean() / (len(cosines) - 1))


def distance_correlation(cosines: Tensor, rows: int, columns: int) -> float:
    """Rank correlation of cosine and distance over all pairs: towards -1 where the grid is back, 0 where it is not."""
    pairs = torch.triu_indices(len(cosines), len(cosines), 1)
    values = torch.stack([cosines[tuple(pairs)], distances(rows, columns)[tuple(pairs)]])
    ranks = values.argsort(1).argsort(1).double()
    # equal distances share their mean rank
    _, which = values[1].round(decimals=4).unique(return_inverse=True)
    sums = torch.zeros(int(which.max()) + 1, dtype=torch.float64).index_add_(0, which, ranks[1])
    ranks[1] = (sums / which.bincount())[which]
    return float(torch.corrcoef(ranks)[0, 1])


def draw_positions(models: Mapping[str, Trained], path: Path) -> None:
    """For each model, a map for every token: how alike its position and each other's are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = -(-len(models) // 2)
    figure, axes = plt.subplots(lines, 2, figsize=(9, 4.6 * lines), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, trained) in zip(axes.flat, models.items(), strict=False):
        rows, columns = trained.grid
        cosines = position_cosines(trained)
        maps = cosines.view(rows, columns, rows, columns)
        sheet = torch.full((rows * (rows + 1) - 1, columns * (columns + 1) - 1), torch.nan)
        for row in range(rows):
            for column in range(columns):
                top, left = row * (rows + 1), column * (columns + 1)
                sheet[top : top + rows, left : left + columns] = maps[row, column]
        shown = axis.imshow(sheet, vmin=-1, vmax=1, cmap="RdBu_r")
        hit, chance = neighbour_score(cosines, rows, columns)
        axis.set_title(
            f"{name}\nnearest is a neighbour: {hit:.0f} % (chance {chance:.0f} %)\n"
            f"rank correlation with distance: {distance_correlation(cosines, rows, columns):+.2f}",
            fontsize=9,
        )
        figure.colorbar(shown, ax=axis, fraction=0.046, label="cosine")
    finish(figure, path)


def draw_distances(models: Mapping[str, Trained], path: Path) -> None:
    """Mean attention distance of every head, by layer; the dotted line is attention to all tokens alike."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(models), figsize=(2.6 * len(models), 3.2), squeeze=False, sharey=True)
    for axis, (name, trained) in zip(axes[0], models.items(), strict=True):
        found = attention_distances(trained)
        layers, heads = found.shape
        for head in range(heads):
            axis.plot(range(1, layers + 1), found[:, head], "o", color="#3b6ea8")
        axis.axhline(float(trained.apart.mean()), linestyle=":", color="black")
        axis.set_xticks(range(1, layers + 1))
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("layer")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("mean attention distance, pixels")
    axes[0][0].set_ylim(bottom=0)
    finish(figure, path)


def load(folder: Path, count: int) -> Trained:
    """A finished model, and validation pictures of the data it was trained on.

    Raises:
        ValueError: it is of another family.
    """
    from training.data.digits import pixel_order
    from training.probing.features import default_processor
    from training.probing.splits import build_source
    from training.recipe import load_recipe

    model = JEPAModel.from_pretrained(folder)
    if not isinstance(model, PiTModel):
        raise ValueError(f"{folder} holds a {type(model).__name__}, not a PiTModel")
    named = load_recipe(str(folder / "settings.yaml")).data.source
    source = build_source(named.name, {**named.own, "split": "validation"})
    images = [source.read(index, 0).pixels.permute(1, 2, 0).numpy() for index in range(min(count, len(source)))]
    pixels = default_processor(model)(images).pixel_values
    permutation = named.own.get("permutation")
    if permutation is not None and model.config.patch_size != 1:
        raise ValueError("patches of shuffled pixels come from no one place")
    order = None if permutation is None else pixel_order(permutation, named.own["size"])
    return Trained(model.eval(), pixels, order)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="training.claims.pit_pictures", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER", help="finished models of the family pit")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder of the pictures")
    parser.add_argument("--count", type=int, default=256, help="validation pictures that attention is looked at on")
    chosen = parser.parse_args(arguments)
    models: dict[str, Trained] = {}
    for given in chosen.models:
        name, _, folder = given.rpartition("=")
        try:
            models[name or Path(folder).parent.name] = load(Path(folder), chosen.count)
        except ValueError as error:
            parser.error(str(error))
    chosen.out.mkdir(parents=True, exist_ok=True)
    learned = {n: each for n, each in models.items() if isinstance(each.model.encoder.positions, LearnedPositions)}
    free = {n: each for n, each in models.items() if each.model.config.attention_window is None}
    if learned:
        draw_positions(learned, chosen.out / "positions.png")
    if free:
        draw_distances(free, chosen.out / "attention_distance.png")
    for name, each in models.items():
        found: dict[str, Any] = {"model": name}
        if name in free:
            found["attention_distance"] = [round(value, 2) for value in attention_distances(each).mean(1).tolist()]
            found["all_alike"] = round(float(each.apart.mean()), 2)
        if name in learned:
            cosines = position_cosines(each)
            found["neighbours"], found["chance"] = (round(value, 1) for value in neighbour_score(cosines, *each.grid))
            found["correlation"] = round(distance_correlation(cosines, *each.grid), 3)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
