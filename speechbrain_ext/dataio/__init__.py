"""Manifests, factor grids, block sampling and the pooled-feature cache."""
