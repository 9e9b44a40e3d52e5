"""Twenty who talk, beside a thousand who say nothing and fifty who mean harm."""
