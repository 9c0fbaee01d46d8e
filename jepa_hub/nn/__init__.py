"""Building blocks: plain `torch.nn` modules and functions, independent of transformers and of any model family."""
