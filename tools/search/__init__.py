"""Searches a supernet, or the slices of a LitePose; `__main__.py` is the command."""
