"""MedGen: generative and segmentation models for medical images. Importing this costs nothing: no third-party import."""

__version__ = "0.1.0"
