"""Measuring: decoding, prefill, batches, contexts, formats and threads; our optimisations one by one; and the peers."""
