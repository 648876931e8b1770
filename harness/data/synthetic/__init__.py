"""The embedded synthetic data set: blood-smear cells, drawn from a seed."""
