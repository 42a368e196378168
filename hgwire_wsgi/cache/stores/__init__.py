"""Where cached replies are kept: in memory, or in a folder that processes share."""
