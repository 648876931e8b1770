"""What is kept on disk: records, predictions, and arrays, each written all or nothing."""
