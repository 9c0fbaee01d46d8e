"""The vision transformer shared by every family of the hub."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from jepa_hub.masks import gather_tokens
from jepa_hub.nn.block import Block, BlockSpec, run_block
from jepa_hub.nn.patchify import PatchEmbed
from jepa_hub.nn.positions import Grid, Rotary


class ViTEncoder(nn.Module):
    """Pixels to tokens. Images are clips of one frame.

    Args:
        spec: width, heads and MLP of the blocks.
        depth: number of blocks.
        patch_embed: how pixels become tokens.
        positions: `SinCosPositions`, `LearnedPositions`, `RotaryPositions` or `NoPositions`.
    """

    def __init__(self, spec: BlockSpec, depth: int, patch_embed: PatchEmbed, positions: nn.Module) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.positions = positions
        self.blocks = nn.ModuleList(Block(spec, index) for index in range(1, depth + 1))
        self.norm = nn.LayerNorm(spec.dim, eps=spec.layer_norm_eps)
        self.gradient_checkpointing = False

    def embed(self, pixels: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Rotary | None]:
        """Tokens before the first block [B, N or K, D] and their rotary tables.

        Tokens are chosen before anything is computed from them, so what is not kept cannot leak.
        """
        patches = self.patch_embed.patches(pixels)  # [B, N, C*t*p*p]
        grid = self.patch_embed.grid(pixels)
        where = self.positions(grid, pixels.device)
        if keep is not None:
            patches = gather_tokens(patches, keep)  # [B, K, C*t*p*p]
        tokens = self.patch_embed(patches)  # [B, K, D]
        if isinstance(where, Rotary):
            return tokens, where if keep is None else where.select(keep)
        if where is not None:
            tokens = tokens + (where if keep is None else where[keep]).to(tokens.dtype)
        return tokens, None

    def reach(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor | None:
        """Which token may look at which, see `Attention`; None, all at all, unless a kind of encoder says otherwise."""
        return None

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, 3, F, H, W] -> [B, N, D], or [B, K, D] for the token indices `keep` int64 [B, K]."""
        x, rotary = self.embed(pixels, keep)
        mask = self.reach(pixels, keep)
        for block in self.blocks:
            x = run_block(self, block, x, rotary, mask=mask)
        return self.norm(x)

    def grid(self, pixels: Tensor) -> Grid:
        """Tokens (T, H, W) of pixels [B, C, F, H, W]; see `PatchEmbed.grid`."""
        return self.patch_embed.grid(pixels)

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """Outputs [B, N, D] of the blocks `layers` (0 is the first, -1 the last), each through the final norm.

        Raises:
            ValueError: there is no such block.
        """
        depth = len(self.blocks)
        wanted = {layer: layer % depth for layer in layers if -depth <= layer < depth}
        if len(wanted) != len(set(layers)):
            raise ValueError(f"layers {list(layers)}: this encoder has blocks 0 .. {depth - 1}")
        x, rotary = self.embed(pixels)
        mask = self.reach(pixels)
        outputs: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x = run_block(self, block, x, rotary, mask=mask)
            outputs |= {layer: self.norm(x) for layer, position in wanted.items() if position == index}
            if index == max(wanted.values()):
                break
        return {layer: outputs[layer] for layer in layers}
