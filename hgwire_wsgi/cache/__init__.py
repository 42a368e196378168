"""Work done once: replies kept and shared, because they are functions of repository state, command and arguments."""
