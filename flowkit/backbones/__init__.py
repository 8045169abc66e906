"""Classification networks cut off where their features are good: what features and dense methods both build on."""
