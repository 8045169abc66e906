"""The losses of the papers, one subject per file."""
