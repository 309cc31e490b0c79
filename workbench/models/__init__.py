"""Model families: one protocol a family, one wrapper a runtime."""
