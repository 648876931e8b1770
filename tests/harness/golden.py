"""Writes the golden leaderboard again: python -m tests.harness.golden"""

from harness.report import markdown

from .test_report import GOLDEN, boards, some_records

if __name__ == "__main__":
    GOLDEN.write_text(markdown(boards(some_records())))
