"""Other engines on the same weights: which there are, their processes, their files, and the comparison with ours."""
