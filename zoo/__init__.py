"""The model zoo: backbone recipes and how to build them. It knows nothing of experiments."""
