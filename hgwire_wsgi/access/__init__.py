"""Access policies."""
