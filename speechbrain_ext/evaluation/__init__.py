"""Verification, content, leakage, baselines, uncertainty and reports."""
