"""Writes the golden leaderboard again: python -m tests.harness.reporting.golden"""

from harness.reporting.markdown import markdown
from tests.harness.reporting.test_markdown import GOLDEN, boards, some_records

if __name__ == "__main__":
    GOLDEN.write_text(markdown(boards(some_records())))
