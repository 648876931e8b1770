"""The embedded images: drawn blood-smear cells."""
