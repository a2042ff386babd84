"""Search: words, tokens, experts, documents and domains over what was recorded; pins compared."""
