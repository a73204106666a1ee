"""Measurements side by side in one run: `./dev bench`."""
