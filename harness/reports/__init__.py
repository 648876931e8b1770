"""The tables of five course reports as presets: what each row is, and the numbers reported."""
