"""The model families. Importing this package registers them with transformers' Auto classes."""

from jepa_hub.models.registry import register_auto_classes

register_auto_classes()
