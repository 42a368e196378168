"""Repositories: the interface of a backend, and backends."""
