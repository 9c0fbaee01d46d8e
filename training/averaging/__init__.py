"""How workers agree on one model."""
