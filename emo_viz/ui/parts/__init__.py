"""What pages share: a text and its tokens, maps, selections, the reader, progress."""
