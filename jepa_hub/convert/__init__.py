"""Upstream tensors to ours and back: names, reshapes and what shapes tell of an architecture. Nothing is computed."""
