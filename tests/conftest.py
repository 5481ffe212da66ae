"""Makes the helpers beside this file importable from all tests."""
