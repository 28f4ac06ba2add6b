"""Wolleb et al., MICCAI 2022: lesions as what changes when a diffusion model is asked for the healthy image."""
