"""Hot tensor kernels, each with one torch reference."""
