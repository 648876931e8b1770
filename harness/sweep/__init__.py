"""Many runs: planning, scheduling, progress."""
