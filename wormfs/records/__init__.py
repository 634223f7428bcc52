"""What becomes of committed files: their dates, holds and end, and the trusted time that decides.

See wormfs/__init__.py for the layers. The rules themselves are in ``worm``; here they meet the backend,
the state directory and the audit trail.
"""
