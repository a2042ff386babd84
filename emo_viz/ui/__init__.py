"""What is drawn: a folder for each page, over what they share (parts/), over the frame (shell/)."""
