"""Version 1 of the protocol: one request, one command, one response."""
