"""Wolleb et al., MIDL 2022: lesion masks drawn by a diffusion model, many of them, and where they disagree."""
