"""The routes: each is thin and calls the part that does the work."""
