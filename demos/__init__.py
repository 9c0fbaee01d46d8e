"""Demonstrations: what the package does, in pictures."""
