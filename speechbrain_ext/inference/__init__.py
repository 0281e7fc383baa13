"""Loading an export: embedding files and verifying pairs."""

from speechbrain_ext.inference.subspaces import SubspaceEncoder

__all__ = ["SubspaceEncoder"]
