"""The routes: thin, each hands on to the part that does the work."""
