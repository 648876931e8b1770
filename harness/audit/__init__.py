"""What is wrong with a data set: duplicates, outliers, and what to remove."""
