"""What methods learn from: sources of samples, views of them, and batches that any number of workers agrees on."""
