"""asyncio and threads, over real sockets."""
