"""Frozen encoders with per-utterance pooling, and subspace networks."""
