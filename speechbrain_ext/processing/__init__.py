"""Heads in closed form: linear discriminant analysis and its controls."""
