"""Version 2 of the protocol: commands and responses as frames."""
