"""The custom resources, typed, and compile(): resources -> documents and conditions (pure)."""
