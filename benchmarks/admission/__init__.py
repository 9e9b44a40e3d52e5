"""``admission``: the product's batcher and ledger beside what people use instead, in one run on one PostgreSQL and one Valkey."""
