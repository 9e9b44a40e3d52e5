"""What can keep an embedded store from running; each message is one sentence for a person."""


class EmbeddedError(Exception):
    """An embedded store cannot run."""


class StoreInUseError(EmbeddedError):
    """Another process runs this store on the same folder."""
