"""Frozen encoders with per-utterance pooling, and heads."""
