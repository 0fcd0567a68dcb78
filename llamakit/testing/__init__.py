"""What plugin authors test their plugins with: conformance suites that our own plugins pass."""
