"""Training: texts to token shards (`prepare`), and shards to a transformers directory (`trainer`)."""
