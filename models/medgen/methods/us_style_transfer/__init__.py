"""Ultrasound variational style transfer (Hung and Galeotti 2021)."""
