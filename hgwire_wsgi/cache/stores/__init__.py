"""Stores for cached replies: in memory, or in a folder that processes share."""
