"""Readers of the public data sets' own layouts."""
