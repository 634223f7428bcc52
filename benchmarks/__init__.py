"""Side-by-side measurements of the mount: see README.md. Start with ``benchmarks/run.py``."""
