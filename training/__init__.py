"""Pretraining, probing and reproduction of the JEPA family on Accelerate."""
