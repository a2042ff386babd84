"""What is loaded, for all visitors, and long work in the background; draws nothing."""
