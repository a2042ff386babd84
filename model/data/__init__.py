"""The corpus: real documents with a domain, a tokenizer trained on them, and token shards.

`python -m model.data build` makes one; `model.data.shards.TokenShard.open` reads one;
`model.data.documents.Document` says what the columns of documents.parquet mean.
"""
