"""Laprade, Perslev, Sporring 2021: a 2D U-Net on many cuts through one volume."""
