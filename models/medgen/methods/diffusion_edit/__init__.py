"""Wolleb et al., arXiv 2204.02641: edits of a brain image guided by a wanted lesion size or a painted region."""
