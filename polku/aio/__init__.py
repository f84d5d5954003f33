"""Small tools for asyncio that everything may use."""
