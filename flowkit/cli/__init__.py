"""One file per verb: options, progress, writing results; no computation."""
