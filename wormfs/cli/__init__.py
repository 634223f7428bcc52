"""The command line: ``main`` holds the table of commands, every command has a module of its own.

See wormfs/__init__.py for the layers.
"""
