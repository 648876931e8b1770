"""Finished runs combined into ensembles."""
