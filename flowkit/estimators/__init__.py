"""Robust model fitting, one small file per backend, one result type (types.Fit)."""
