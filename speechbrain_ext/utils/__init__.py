"""Errors, option files and small helpers."""
