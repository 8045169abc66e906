"""Images in, value types out."""
