"""The data engine: still photographs in, image pairs with exact ground truth out."""
