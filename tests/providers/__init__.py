"""Voice backends: the contract that each one passes, and what is each one's own."""
