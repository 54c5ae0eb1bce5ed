"""What ships inside a version: candidates, their features and intervals, and the compiled scorer."""
