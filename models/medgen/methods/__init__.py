"""One folder a paper. Each has spec.py (standard library only) with `SPECS`; a method never imports another method."""
