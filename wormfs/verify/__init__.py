"""Verification: is what a backend holds still what was committed? See wormfs/__init__.py for the layers.

``wormfs verify`` runs in a process of its own and asks the backend's driver, not the mount, so that it
neither fills the kernel's cache of the mount nor shares an interpreter lock with the daemon. ``run`` is the
way through; ``catalog`` is what it remembers.
"""
