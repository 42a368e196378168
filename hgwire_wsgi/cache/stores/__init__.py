"""Stores of cached replies: memory, and a folder shared by processes."""
