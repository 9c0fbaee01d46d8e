"""What frozen features tell: tables of features, and the probes that read labels out of them."""
