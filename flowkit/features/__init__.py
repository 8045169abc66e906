"""Local features and matching, one small file per feature behind one interface."""
