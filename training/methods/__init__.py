"""Methods: a model and an objective as one module, and what happens after a step."""
