"""Flow colours, match drawings, error maps, overlays and animations."""
