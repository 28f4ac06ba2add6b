"""MedGen: generative and segmentation models for medical images. Importing this costs nothing: no other import."""

__version__ = "0.1.0"
