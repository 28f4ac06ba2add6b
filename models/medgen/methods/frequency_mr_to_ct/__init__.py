"""Shi et al. 2021: synthetic CT from MR, with bone edges taught on their own."""
