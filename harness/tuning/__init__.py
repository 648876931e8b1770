"""The search for hyperparameters of one recipe, on validation images alone (Optuna)."""
