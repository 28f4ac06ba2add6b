"""Brains that mix: a style-based generator of skull-stripped T1 volumes (Hong et al. 2021)."""
