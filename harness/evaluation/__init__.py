"""Arrays to numbers: metrics, intervals, tests, calibration. No disk."""
