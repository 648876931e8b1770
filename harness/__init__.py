"""wbc-bench: which backbone should classify my cell images, and what does it cost?"""

__version__ = "0.1.0"
