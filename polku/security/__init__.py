"""Who a client is, and what it may: principals, their rights, and the file that says both."""
