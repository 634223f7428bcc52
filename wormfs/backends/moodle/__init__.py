"""See wormfs/__init__.py for the layers."""
