"""Quick methods of a third-party package, for the click-through tests."""
