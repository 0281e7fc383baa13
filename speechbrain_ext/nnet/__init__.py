"""Losses of interventional post-training."""
