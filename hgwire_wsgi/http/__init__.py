"""HTTP: the WSGI application, and the transports it routes to."""
