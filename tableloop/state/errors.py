"""What can go wrong with the store."""


class StoreError(Exception):
    """The store cannot be read or written; the message is the database's own."""
