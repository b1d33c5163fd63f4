"""The HTTP transport, which sends one request and reads its response over aiohttp."""
