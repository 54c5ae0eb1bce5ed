"""What can go wrong with the store."""


class StoreError(Exception):
    """The store cannot be read or written; the message is the database's own."""


class ServerAwayError(StoreError):
    """The server of the store's database does not answer, or is only starting: it may come yet."""
