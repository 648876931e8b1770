"""Whether a results folder's tables are those that its records give: python -m ... RESULTS"""

import sys
from pathlib import Path

from harness import report
from harness.leaderboard import boards
from harness.store import Store


def main(results: Path) -> int:
    ranked = boards(Store(results).records())
    expected = {
        "LEADERBOARD.md": report.markdown(ranked),
        "leaderboard.csv": report.csv_text(ranked),
    }
    stale = [name for name, text in expected.items() if (results / name).read_text() != text]
    for name in stale:
        print(f"{results / name} is not what its records give: wbc-bench leaderboard")
    return len(stale)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
