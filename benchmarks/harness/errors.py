"""What can keep a benchmark from measuring; each message is one sentence for a person."""


class BenchmarkError(Exception):
    """It could not be measured."""
