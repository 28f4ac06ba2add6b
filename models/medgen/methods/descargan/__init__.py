"""Wolleb et al., MICCAI 2020: two piles of images, healthy and diseased, and what a GAN changes between them."""
