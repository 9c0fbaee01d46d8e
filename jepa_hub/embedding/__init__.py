"""Bulk embedding: folders of pictures and clips to one file of vectors, resumable; what `jepa-hub embed` runs."""
