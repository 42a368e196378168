"""The reply caches: replies depend only on repository state, command and arguments, so they are cached and shared."""
