"""Files: images, sequences, flow, matches, pair lists, cameras, trajectories, JSON results."""
