"""How masks are drawn: the samplers of the papers (`samplers.MASKS`), faithful and corrected, and their audit."""
