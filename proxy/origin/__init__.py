"""The origin's side: see the map in `proxy/__init__.py`."""
