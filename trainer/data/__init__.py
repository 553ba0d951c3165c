"""Data: raw pictures to shards, shards to the batches of each update, in an order of its own."""
