"""Records to leaderboards: Markdown, CSV, HTML and figures."""
