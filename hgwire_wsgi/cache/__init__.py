"""Work done once: replies depend on repository state, command and arguments only, so they are kept and shared."""
