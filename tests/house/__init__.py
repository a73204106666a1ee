"""The project itself: build, imports, documents."""
