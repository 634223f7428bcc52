"""wormfs: a write-once file system over several storage backends.

The layers, from the outside in: ``cli``, ``daemon``, ``fuse``, ``fs``, ``spool``, ``records``,
``backends``, ``worm``, ``config``, ``audit``, and the value types in ``model``, ``errors`` and ``clock``.
An inner layer never imports an outer one; ``pyproject.toml`` holds the contracts.
"""

__version__ = "0.1.0"
