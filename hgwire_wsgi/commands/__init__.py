"""Commands: the registry, requests for commands, and their responses."""
