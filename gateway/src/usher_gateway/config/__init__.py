"""Where configuration comes from: each source yields snapshots of documents."""
