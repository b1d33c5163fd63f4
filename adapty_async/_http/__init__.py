"""The transport: one HTTP request and its response over aiohttp."""
