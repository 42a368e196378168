"""Commands: the registry, what a request asks for, and what a command answers."""
