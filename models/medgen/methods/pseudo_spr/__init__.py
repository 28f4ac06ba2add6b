"""Yawson et al. 2023: stopping power straight from MR, with a bone channel."""
