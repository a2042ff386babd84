"""What frames every page: its title and menu, the address, keys, words, what is missing."""
