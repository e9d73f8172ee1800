"""The steps of an arrival's path, one per file, in path order."""
