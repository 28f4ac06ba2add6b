"""Paavilainen, Akram, Kannala 2021: pix2pix with an aligned stand-in and unpaired scans."""
