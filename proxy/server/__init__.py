"""The client's side: see the map in `proxy/__init__.py`."""
