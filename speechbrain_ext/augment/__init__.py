"""Seeded random recording channels."""
