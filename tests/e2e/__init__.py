"""The product from outside: real server processes, real sockets, real browsers."""
